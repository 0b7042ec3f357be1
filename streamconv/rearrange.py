"""The bytes of one unit, from its axes in the source to its axes in the target.

A naive transpose strides through memory by whole rows and runs at a tenth of memory's speed.
Here a panel, some rows of output, goes through three copies that stay in cache: gathered from
the source in long runs, cut into strips of a few rows, dealt from there into the output's order.
Each is a single call of numpy, which leaves the interpreter's lock alone meanwhile, so that
workers run side by side. Elements are moved as integers of their width and runs of them as
opaque bytes: no value is ever looked at.
"""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from streamconv.axes import Rearrangement

PANEL_ROWS = 128
"""Rows of output in a panel: so many neighbouring elements are taken from each source row."""
PANEL_BYTES = 2**19
"""A panel of long rows has fewer of them, to stay about this size."""
STRIP_BYTES = 32
"""What a strip of a panel has of each source row: a strip of 1500 rows has 48 KiB."""
SHORT_AXIS = 8
"""An innermost output axis shorter than this is dealt out one position at a time."""

_UINT = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}

Array = npt.NDArray[Any]


class Rearranger:
    """Rearranges units of one shape; keeps the memory for it from unit to unit."""

    def __init__(self, how: Rearrangement) -> None:
        self._shape = how.shape
        self._dtype = np.dtype(_UINT[how.itemsize])
        self._strides = tuple(stride * how.itemsize for stride in how.strides)
        strip = max(STRIP_BYTES // how.itemsize, 1)
        depth = 0
        while math.prod(how.shape[depth + 1 :]) * how.itemsize * strip > PANEL_BYTES:
            depth += 1
        self._depth = depth
        row_bytes = math.prod(how.shape[depth + 1 :]) * how.itemsize
        most = min(PANEL_ROWS, max(PANEL_BYTES // row_bytes // strip, 1) * strip)
        self._cuts = _cuts(how.shape[depth], most, strip)
        self._panels = {
            rows: _Panel((rows, *how.shape[depth + 1 :]), self._strides[depth:], self._dtype, strip)
            for rows in {cut.stop - cut.start for cut in self._cuts}
        }

    def panels(self, source: memoryview, start: int) -> Iterator[tuple["_Panel", Array]]:
        """The unit that begins at element `start` of `source`, as panels in output order.

        Each comes with the part of the source that its `write_into` takes.
        """
        offset = start * self._dtype.itemsize
        unit: Array = np.ndarray(self._shape, self._dtype, source, offset, self._strides)
        for leading in itertools.product(*map(range, self._shape[: self._depth])):
            below = unit[leading]
            for cut in self._cuts:
                yield self._panels[cut.stop - cut.start], below[cut]


def _cuts(rows: int, most: int, strip: int) -> list[slice]:
    """`rows` cut into panels of at most `most`: whole strips, and at last what is less than one."""
    bounds = [*range(0, rows, most), rows // strip * strip, rows]
    return [slice(a, b) for a, b in itertools.pairwise(sorted(set(bounds)))]


class _Panel:
    """How a panel of one size is put into the output's order: views that are made once."""

    def __init__(
        self, shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype[Any], strip: int
    ) -> None:
        self.nbytes = math.prod(shape) * dtype.itemsize
        self._dtype = dtype
        self._shape = shape
        self._neighbours = strides[0] == dtype.itemsize and len(shape) > 1
        if not self._neighbours:
            return
        rows = min(strip, shape[0])
        strips = shape[0] // rows
        self._order = sorted(range(1, len(shape)), key=lambda axis: -strides[axis])
        lead = tuple(shape[axis] for axis in self._order)
        count = math.prod(lead)
        across, width = shape[0] * dtype.itemsize, rows * dtype.itemsize
        self._run = np.dtype(f"V{across}")
        run = np.dtype(f"V{width}")
        panel, cut = np.empty(self.nbytes, np.uint8), np.empty(self.nbytes, np.uint8)
        self._gathered: Array = np.ndarray(lead, self._run, panel)
        self._pieces: Array = np.ndarray((strips, count), run, panel, 0, (width, across))
        self._strips: Array = np.ndarray((strips, count), run, cut)
        whole: Array = np.ndarray((strips, *lead, rows), dtype, cut)
        back = (self._order.index(axis) + 1 for axis in range(1, len(shape)))
        self._in_order = whole.transpose((0, whole.ndim - 1, *back))

    def write_into(self, out: memoryview, part: Array) -> None:
        """Put a part of the source into `out`, which has the size of this panel."""
        target: Array = np.frombuffer(out, self._dtype)
        if not self._neighbours:
            _deal(target.reshape(self._shape), part)
            return
        np.copyto(self._gathered, self._as_runs(part))
        np.copyto(self._strips, self._pieces)
        _deal(target.reshape(self._in_order.shape), self._in_order)

    def _as_runs(self, part: Array) -> Array:
        """The runs of neighbouring elements that `part` takes from each row of the source."""
        lead = part[0].transpose([axis - 1 for axis in self._order])
        runs = np.lib.stride_tricks.as_strided(
            lead, (*lead.shape, len(part)), (*lead.strides, self._dtype.itemsize)
        )
        return runs.view(self._run)[..., 0]


def _deal(target: Array, source: Array) -> None:
    """Copy between two orders; a short innermost axis would make every inner loop a short one."""
    if target.ndim > 1 and target.shape[-1] < SHORT_AXIS:
        for k in range(target.shape[-1]):
            np.copyto(target[..., k], source[..., k])
    else:
        np.copyto(target, source)
