"""File formats: how their bytes are parsed and built."""
