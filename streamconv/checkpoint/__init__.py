"""What is in a checkpoint, as data."""
