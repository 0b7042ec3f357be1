"""Puts the bytes of one unit from the source's order of axes into the target's.

A naive transpose strides through memory by whole rows and runs at a tenth of memory's speed.
Here a unit is made panel by panel. A panel is some rows of output, and goes through three copies
that stay in the CPU cache:

    source --> gathered    a long run of each source row: one element for each row of the panel
           --> narrow      the same, cut into narrow panels of 16 bytes of each source row
           --> output      each narrow panel transposed

Each copy is a single call of numpy, which releases the interpreter's lock, so that workers run in
parallel. Elements are moved as integers of their width, and runs of elements as opaque bytes: no
value is ever interpreted.

How bytes move is deliberately written twice: here for converting them, and in
`verification/compare.py` for comparing them. The two share no code, so that a mistake in one is
found by the other.
"""

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from streamconv.planning.rearrangement import Rearrangement

PANEL_ROWS = 128
"""Rows of output in a panel: the number of neighboring elements taken from each source row."""
PANEL_BYTES = 2**19
"""The largest panel. If rows are long, a panel has fewer than PANEL_ROWS of them."""
SHORT_ROWS_SHARE = 8
"""If PANEL_ROWS rows take less than this fraction of PANEL_BYTES, a panel has more of them."""
NARROW_BYTES = 16
"""Bytes of each source row in a narrow panel, which takes 24 KiB if there are 1500 source rows.
numpy has a loop for runs of 16 bytes, and calls `memmove` for longer ones: a fifth slower."""
SHORT_AXIS = 8
"""An innermost output axis shorter than this is copied one position at a time."""

_UINT = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}

Array = npt.NDArray[Any]


class PanelMemory:
    """Memory for two forms of a panel, which all transposers of a thread share."""

    def __init__(self) -> None:
        """Allocate it; a page takes memory once a panel is so large."""
        self.wide: Array = np.empty(PANEL_BYTES, np.uint8)
        self.cut: Array = np.empty(PANEL_BYTES, np.uint8)


class Transposer:
    """Rearranges units of one shape. Keeps views from unit to unit."""

    def __init__(
        self, rearrangement: Rearrangement, source: memoryview, memory: PanelMemory
    ) -> None:
        """Cut a unit into panels.

        Args:
            rearrangement: How the bytes of a unit come from its inputs; not a copy.
            source: The memory that the inputs of each unit are read into.
            memory: Memory of the thread, which holds nothing between two panels.
        """
        shape, itemsize = rearrangement.shape, rearrangement.itemsize
        dtype = np.dtype(_UINT[itemsize])
        strides = tuple(stride * itemsize for stride in rearrangement.strides)
        narrow_rows = max(NARROW_BYTES // itemsize, 1)
        depth = 0
        while math.prod(shape[depth + 1 :]) * itemsize * narrow_rows > PANEL_BYTES:
            depth += 1
        row_shape = shape[depth + 1 :]
        most_rows = _panel_rows(math.prod(row_shape) * itemsize, narrow_rows)
        slices = _panel_slices(shape[depth], most_rows, narrow_rows)
        buffers = {
            rows: _PanelBuffers((rows, *row_shape), strides[depth:], dtype, narrow_rows, memory)
            for rows in {part.stop - part.start for part in slices}
        }
        unit: Array = np.ndarray(shape, dtype, source, rearrangement.start * itemsize, strides)
        self.panels = [
            Panel(buffers[part.stop - part.start], unit[leading][part])
            for leading in itertools.product(*map(range, shape[:depth]))
            for part in slices
        ]
        """The panels of a unit, in output order."""


def _panel_rows(row_bytes: int, narrow_rows: int) -> int:
    """Return the most rows of a panel: a multiple of `narrow_rows` that fits PANEL_BYTES."""
    fitting = max(PANEL_BYTES // row_bytes // narrow_rows, 1) * narrow_rows
    share = fitting // SHORT_ROWS_SHARE // narrow_rows * narrow_rows
    return min(max(PANEL_ROWS, share), fitting)


def _panel_slices(rows: int, most_rows: int, narrow_rows: int) -> list[slice]:
    """Cut `rows` into panels of at most `most_rows`.

    Each has a multiple of `narrow_rows`, but for the last one, which has less than that.
    """
    bounds = [*range(0, rows, most_rows), rows // narrow_rows * narrow_rows, rows]
    return [slice(a, b) for a, b in itertools.pairwise(sorted(set(bounds)))]


class _PanelBuffers:
    """Views of the memory of panels, which all panels of one shape share."""

    def __init__(
        self,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        dtype: np.dtype[Any],
        narrow: int,
        memory: PanelMemory,
    ) -> None:
        """Make them.

        Args:
            shape: Rows of the panel, and the axes of a row.
            strides: Bytes between neighbors on each of these axes in the source.
            dtype: An unsigned integer as wide as an element.
            narrow: Rows of a narrow panel.
            memory: Room for both forms of the largest panel.
        """
        self.nbytes = math.prod(shape) * dtype.itemsize
        self.dtype = dtype
        self.shape = shape
        self.has_runs = strides[0] == dtype.itemsize and len(shape) > 1
        """True if the elements of a column of the panel are neighbors in the source."""
        if not self.has_runs:
            return
        rows = min(narrow, shape[0])
        self.order = sorted(range(1, len(shape)), key=lambda axis: -strides[axis])
        """The axes of a row in their order in the source."""
        lead = tuple(shape[axis] for axis in self.order)
        count, narrow_count = math.prod(lead), shape[0] // rows
        run_bytes, narrow_bytes = shape[0] * dtype.itemsize, rows * dtype.itemsize
        self.run = np.dtype(f"V{run_bytes}")
        narrow_run = np.dtype(f"V{narrow_bytes}")
        wide, cut = memory.wide, memory.cut
        self.gathered: Array = np.ndarray(lead, self.run, wide)
        self.gathered_runs: Array = np.ndarray(
            (narrow_count, count), narrow_run, wide, 0, (narrow_bytes, run_bytes)
        )
        self.narrow: Array = np.ndarray((narrow_count, count), narrow_run, cut)
        elements: Array = np.ndarray((narrow_count, *lead, rows), dtype, cut)
        back = (self.order.index(axis) + 1 for axis in range(1, len(shape)))
        self.transposed = elements.transpose((0, elements.ndim - 1, *back))
        """The elements of all narrow panels, in the order of the output."""

    def runs_of(self, panel: Array) -> Array:
        """Return a view of the runs that a panel takes from the source, one for each source row."""
        lead = panel[0].transpose([axis - 1 for axis in self.order])
        runs = np.lib.stride_tricks.as_strided(
            lead, (*lead.shape, len(panel)), (*lead.strides, self.dtype.itemsize)
        )
        return runs.view(self.run)[..., 0]


class Panel:
    """Some rows of output, and where in the source they come from."""

    def __init__(self, buffers: _PanelBuffers, elements: Array) -> None:
        self.nbytes = buffers.nbytes
        self._buffers = buffers
        self._source = buffers.runs_of(elements) if buffers.has_runs else elements

    def write_into(self, out: memoryview) -> None:
        """Write the panel, from the present content of the source, to `out` of the same size."""
        buffers = self._buffers
        if buffers.has_runs:
            target: Array = np.ndarray(buffers.transposed.shape, buffers.dtype, out)
            np.copyto(buffers.gathered, self._source)
            np.copyto(buffers.narrow, buffers.gathered_runs)
            _copy(target, buffers.transposed)
        else:
            _copy(np.ndarray(buffers.shape, buffers.dtype, out), self._source)


def _copy(target: Array, source: Array) -> None:
    """Copy between two orders of axes, without an inner loop over a short axis."""
    if target.ndim > 1 and target.shape[-1] < SHORT_AXIS:
        for k in range(target.shape[-1]):
            np.copyto(target[..., k], source[..., k])
    else:
        np.copyto(target, source)
