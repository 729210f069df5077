"""A spec assembled, trained, sampled, measured and kept."""
