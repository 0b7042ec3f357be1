"""How a checkpoint reaches the disk and survives a crash."""
