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
from typing import Any

import numpy as np
import numpy.typing as npt

from streamconv.planning.rearrangement import Rearrangement

PANEL_ROWS = 128
"""Rows of output in a panel: so many neighbouring elements are taken from each source row."""
PANEL_BYTES = 2**19
"""A panel of long rows has fewer of them, to stay about this size."""
SHORT_SHARE = 8
"""Rows so short that PANEL_ROWS of them are less than this part of PANEL_BYTES come in more."""
STRIP_BYTES = 16
"""What a strip of a panel has of each source row: a strip of 1500 rows has 24 KiB. Numpy has
a loop for runs of 16 bytes, and calls `memmove` for each longer one: a fifth slower, measured."""
SHORT_AXIS = 8
"""An innermost output axis shorter than this is dealt out one position at a time."""

_UINT = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}

Array = npt.NDArray[Any]


class Transposer:
    """Rearranges units of one shape; keeps the memory and the views for it from unit to unit."""

    def __init__(self, how: Rearrangement, source: memoryview) -> None:
        """For units whose inputs are read into `source`, as `how` says, one unit at a time."""
        dtype = np.dtype(_UINT[how.itemsize])
        strides = tuple(stride * how.itemsize for stride in how.strides)
        strip = max(STRIP_BYTES // how.itemsize, 1)
        depth = 0
        while math.prod(how.shape[depth + 1 :]) * how.itemsize * strip > PANEL_BYTES:
            depth += 1
        below = how.shape[depth + 1 :]
        cuts = _cuts(how.shape[depth], _panel_rows(math.prod(below) * how.itemsize, strip), strip)
        kinds = {
            rows: _Kind((rows, *below), strides[depth:], dtype, strip)
            for rows in {cut.stop - cut.start for cut in cuts}
        }
        unit: Array = np.ndarray(how.shape, dtype, source, how.start * how.itemsize, strides)
        self.panels = [
            Panel(kinds[cut.stop - cut.start], unit[leading][cut])
            for leading in itertools.product(*map(range, how.shape[:depth]))
            for cut in cuts
        ]
        """A unit in output order."""


def _panel_rows(row_bytes: int, strip: int) -> int:
    """Rows of a panel at most: whole strips; more than PANEL_ROWS where they are very short."""
    fit = max(PANEL_BYTES // row_bytes // strip, 1) * strip
    return min(max(PANEL_ROWS, fit // SHORT_SHARE // strip * strip), fit)


def _cuts(rows: int, most: int, strip: int) -> list[slice]:
    """`rows` cut into panels of at most `most`: whole strips, and at last what is less than one."""
    bounds = [*range(0, rows, most), rows // strip * strip, rows]
    return [slice(a, b) for a, b in itertools.pairwise(sorted(set(bounds)))]


class _Kind:
    """How panels of one size are put into the output's order: memory and views for all of them."""

    def __init__(
        self, shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype[Any], strip: int
    ) -> None:
        self.nbytes = math.prod(shape) * dtype.itemsize
        self.dtype = dtype
        self.shape = shape
        self.neighbours = strides[0] == dtype.itemsize and len(shape) > 1
        if not self.neighbours:
            return
        rows = min(strip, shape[0])
        strips = shape[0] // rows
        self.order = sorted(range(1, len(shape)), key=lambda axis: -strides[axis])
        lead = tuple(shape[axis] for axis in self.order)
        count = math.prod(lead)
        across, width = shape[0] * dtype.itemsize, rows * dtype.itemsize
        self.run = np.dtype(f"V{across}")
        run = np.dtype(f"V{width}")
        panel, cut = np.empty(self.nbytes, np.uint8), np.empty(self.nbytes, np.uint8)
        self.gathered: Array = np.ndarray(lead, self.run, panel)
        self.pieces: Array = np.ndarray((strips, count), run, panel, 0, (width, across))
        self.strips: Array = np.ndarray((strips, count), run, cut)
        whole: Array = np.ndarray((strips, *lead, rows), dtype, cut)
        back = (self.order.index(axis) + 1 for axis in range(1, len(shape)))
        self.in_order = whole.transpose((0, whole.ndim - 1, *back))

    def runs_of(self, part: Array) -> Array:
        """The runs of neighbouring elements that `part` takes from each row of the source."""
        lead = part[0].transpose([axis - 1 for axis in self.order])
        runs = np.lib.stride_tricks.as_strided(
            lead, (*lead.shape, len(part)), (*lead.strides, self.dtype.itemsize)
        )
        return runs.view(self.run)[..., 0]


class Panel:
    """Some rows of output, and where in the source they come from."""

    def __init__(self, kind: _Kind, part: Array) -> None:
        self.nbytes = kind.nbytes
        self._kind = kind
        self._from = kind.runs_of(part) if kind.neighbours else part

    def write_into(self, out: memoryview) -> None:
        """Put what the source holds now into `out`, which has the size of this panel."""
        kind = self._kind
        if kind.neighbours:
            target: Array = np.ndarray(kind.in_order.shape, kind.dtype, out)
            np.copyto(kind.gathered, self._from)
            np.copyto(kind.strips, kind.pieces)
            _deal(target, kind.in_order)
        else:
            _deal(np.ndarray(kind.shape, kind.dtype, out), self._from)


def _deal(target: Array, source: Array) -> None:
    """Copy between two orders; a short innermost axis would make every inner loop a short one."""
    if target.ndim > 1 and target.shape[-1] < SHORT_AXIS:
        for k in range(target.shape[-1]):
            np.copyto(target[..., k], source[..., k])
    else:
        np.copyto(target, source)
