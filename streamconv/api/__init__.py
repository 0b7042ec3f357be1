"""The public functions. `streamconv` exports them, each under its own name."""
