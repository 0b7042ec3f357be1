"""Which family and layout a checkpoint has."""
