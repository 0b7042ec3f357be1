"""What will be written."""
