"""How such bytes look: file formats, parsed and built."""
