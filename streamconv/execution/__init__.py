"""Who runs a plan, and how."""
