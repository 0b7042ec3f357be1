"""Memory that is reused from tile to tile: fresh pages cost more than the work on them."""

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Allocate = Callable[[int], memoryview]
"""Returns memory of a number of bytes."""

_ALIGNMENT = 64
"""Bytes of a line of the processor's cache."""


class Workspace:
    """Arrays by name, and the table that was used last. Each thread has one of its own."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        self._held: dict[str, Array] = {}
        self._key: Hashable = None
        self._table: Array | None = None

    def array(self, name: str, count: int, dtype: Any) -> Array:
        """Return memory for `count` numbers, with any content, until it is asked for again.

        Args:
            name: What it is for; each name has memory of its own.
            count: Numbers.
            dtype: Their dtype in numpy.
        """
        nbytes = count * np.dtype(dtype).itemsize
        held = self._held.get(name)
        if held is None or held.nbytes < nbytes:
            held = None
            self._held.pop(name, None)  # before there is a larger one
            held = self._held[name] = np.empty(nbytes, np.uint8)
        return held[:nbytes].view(dtype)

    def parts(self, name: str, nbytes: int, count: int) -> Allocate:
        """Return what allocates parts of memory, one after the other, with any content.

        Args:
            name: What the memory is for, as in `array`.
            nbytes: Bytes of all parts.
            count: The number of parts, at most.
        """
        left = self.array(name, nbytes + count * _ALIGNMENT, np.uint8)

        def allocate(part_bytes: int) -> memoryview:
            nonlocal left
            part = left[:part_bytes]
            left = left[-(-part_bytes // _ALIGNMENT) * _ALIGNMENT :]
            return part.data

        return allocate

    def table(self, key: Hashable, make: Callable[[], Array]) -> Array:
        """Return the table that has a key, made if it is not the one that was used last."""
        if self._table is None or self._key != key:
            self._key = self._table = None
            self._table = make()
            self._key = key
        return self._table


def fresh(nbytes: int) -> memoryview:
    """Return memory that nothing else has, filled with zeros."""
    return memoryview(bytearray(nbytes))
