"""What pruning leaves of the AP, against other ways to a smaller model."""
