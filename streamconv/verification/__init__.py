"""Whether a checkpoint is right."""
