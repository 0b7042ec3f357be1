"""What is put around any source: casts, a rate limit, a template."""
