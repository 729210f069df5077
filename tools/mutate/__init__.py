"""Planted errors: small edits of formulas, each of which some test must notice. `python -m tools.mutate --help`."""
