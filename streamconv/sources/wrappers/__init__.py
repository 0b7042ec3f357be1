"""What any source can be put in: casts, a rate limit, a template."""
