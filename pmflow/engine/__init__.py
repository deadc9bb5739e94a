"""What decides when everything runs."""
