"""What a component is and what is installed. No torch."""
