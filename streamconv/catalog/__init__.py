"""The known layouts, families and presets, and other tables."""
