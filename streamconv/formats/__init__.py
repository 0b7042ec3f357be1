"""File formats: framing parsed, validated and built. Pure."""
