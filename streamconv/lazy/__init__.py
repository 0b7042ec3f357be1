"""Checkpoints that are opened in any layout without being converted."""
