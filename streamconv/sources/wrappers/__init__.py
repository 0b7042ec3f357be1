"""Wrappers around any source: casts, renames, a rate limit, a template, read-ahead."""
