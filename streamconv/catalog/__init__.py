"""Which layouts, families and presets are known."""
