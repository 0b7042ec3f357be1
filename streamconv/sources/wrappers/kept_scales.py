"""The scales of quantized weights, kept from when their codes are made until they are read."""

import threading
from typing import Any

import numpy.typing as npt

from streamconv.checkpoint.encoding import View

Array = npt.NDArray[Any]

Weight = tuple[str, View | None]
"""The name of a stored tensor, and the part of it that is the weight; None for all of it."""


class KeptScales:
    """Scales of bands. All threads share them."""

    def __init__(self, allowed: int) -> None:
        """Keep at most `allowed` bytes."""
        self._allowed = allowed
        self._held = 0
        self._bands: dict[Weight, dict[int, Array]] = {}
        self._lock = threading.Lock()

    def put(self, weight: Weight, number: int, scales: Array) -> None:
        """Keep the scales of band `number`. If there is no room, drop the oldest weights."""
        with self._lock:
            bands = self._bands.setdefault(weight, {})
            if number not in bands:
                bands[number] = scales
                self._held += scales.nbytes
            while self._held > self._allowed:
                self._drop(next(iter(self._bands)))

    def get(self, weight: Weight, number: int) -> Array | None:
        """Return the scales of band `number`; None if they are not kept."""
        with self._lock:
            return self._bands.get(weight, {}).get(number)

    def drop(self, weight: Weight) -> None:
        """Forget the scales of a weight."""
        with self._lock:
            self._drop(weight)

    def _drop(self, weight: Weight) -> None:
        self._held -= sum(scales.nbytes for scales in self._bands.pop(weight, {}).values())
