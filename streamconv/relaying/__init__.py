"""Tensors that a trainer emits, yielded in another layout as soon as they are complete."""
