"""The grids of a quantized matrix: its scales and zero points, row by row, and their checks."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from streamconv.checkpoint.decoding import Decoding
from streamconv.errors import BadCheckpoint, quoted
from streamconv.quantization.dtype_kernels import as_float32, values_of
from streamconv.quantization.unpack import LoadedPlane, grid_rows
from streamconv.quantization.workspace import Workspace

Array = npt.NDArray[Any]

_INTEGERS = {"I8": np.int8, "I32": np.int32, "I64": np.int64}


class Grids:
    """The grids of one matrix. Their tensors are in memory, as far as they are needed."""

    def __init__(
        self,
        decoding: Decoding,
        codes: str,
        others: Mapping[str, LoadedPlane],
        workspace: Workspace,
    ) -> None:
        """Check everything that concerns the matrix as a whole.

        Args:
            decoding: How the matrix is decoded.
            codes: Name of the tensor of its codes.
            others: The tensors that belong to the codes, by role.
            workspace: Memory of the thread.

        Raises:
            BadCheckpoint: A group index or a second scale contradicts the plan.
        """
        self._decoding = decoding
        self._codes = codes
        self._others = others
        self._workspace = workspace
        self.groups = self._group_index()
        """The group of each column if they are not in order, `[matrices, columns]`."""
        self._second = self._second_scale()

    def rows(self, role: str, rows: range) -> Array:
        """Return the rows of a grid that belong to rows of the matrix."""
        loaded = self._others[role]
        block = loaded.plane.block[0]
        needed = range(rows.start // block, (rows.stop - 1) // block + 1)
        values = grid_rows(loaded, needed, loaded.plane.shape[1], role, self._workspace)
        if self.groups is None:
            return values
        if len(self.groups) == 1:
            return values[:, self.groups[0]]
        index = self._others["index"].plane
        own = np.arange(needed.start, needed.stop) * block // index.block[0]
        taken: Array = np.take_along_axis(values, self.groups[own], axis=1)
        return taken

    def first_scales(self, rows: range) -> Array:
        """Return the scales of some rows as they are stored. Raises BadCheckpoint."""
        scales = self.rows("scale", rows)
        if not np.isfinite(scales).all():
            raise self.bad_scale("scale", scales[~np.isfinite(scales)][0])
        return scales

    def are_usual(self, rows: range) -> bool:
        """Return True if all scales of some rows, which have 8 bits, are numbers and not zero."""
        loaded = self._others["scale"]
        height = loaded.plane.block[0]
        first, last = rows.start // height, (rows.stop - 1) // height + 1
        stored = loaded.rows[first - loaded.first : last - loaded.first]
        return not any((stored == code).any() for code in _unusual(loaded.plane.dtype))

    def with_second(self, scales: Array, rows: range) -> Array:
        """Return the scales of some rows with the second one of the matrix, if there is one."""
        if self._second is None:
            return scales
        combine = np.multiply if self._decoding.second == "multiplies" else np.divide
        combined: Array = combine(scales, self._second_of(rows, scales.shape[1]))
        return combined

    def _second_of(self, rows: range, columns: int) -> Array:
        """Return the second scale of each scale in some rows."""
        assert self._second is not None
        if self._second.size == 1:
            return self._second
        block = self._others["scale"].plane.block
        per = self._others["second"].plane.block
        down = np.arange(rows.start // block[0], (rows.stop - 1) // block[0] + 1) * block[0]
        across = np.arange(columns) * block[1]
        found: Array = self._second[down // per[0]][:, across // per[1]]
        return found

    def seconds_are_in_rows(self) -> bool:
        """Return True if all elements of a row have one second scale, or none."""
        return self._second is None or self._second.shape[1] == 1

    def parts_by_second(self, rows: range) -> Iterator[tuple[range, np.float32 | None]]:
        """Yield the rows of each second scale, and that scale."""
        if self._second is None:
            yield rows, None
            return
        height = self._others["second"].plane.block[0]
        begin = rows.start
        while begin < rows.stop:
            number = begin // height
            end = min((number + 1) * height, rows.stop)
            yield range(begin, end), self._second[number, 0]
            begin = end

    def _group_index(self) -> Array | None:
        """Return the group of each column if they are not in order, `[matrices, columns]`.

        Raises BadCheckpoint.
        """
        loaded = self._others.get("index")
        if loaded is None:
            return None
        scale = self._others["scale"].plane
        groups = loaded.rows.view(_INTEGERS[loaded.plane.dtype]).reshape(loaded.plane.stored)
        count = scale.shape[1]
        wrong = (groups < 0) | (groups >= count)
        if wrong.any():
            raise BadCheckpoint(
                f"tensor {quoted(loaded.name)} names the group {groups[wrong][0]}, and there are "
                f"{count} groups of scales"
            )
        in_order = np.arange(groups.shape[1]) // scale.block[1]
        return None if (groups == in_order).all() else groups.astype(np.intp)

    def _second_scale(self) -> Array | None:
        """Return the grid of second scales. Raises BadCheckpoint."""
        loaded = self._others.get("second")
        if loaded is None:
            return None
        values = as_float32(loaded.rows.tobytes(), loaded.plane.dtype).reshape(loaded.plane.stored)
        wrong = ~np.isfinite(values) | (values == 0)
        if wrong.any():
            raise self.bad_scale("second", values[wrong][0])
        return values

    def bad_scale(self, role: str, value: float) -> BadCheckpoint:
        """Return the error for a scale that no quantizer makes."""
        return BadCheckpoint(
            f"tensor {quoted(self._others[role].name)} holds the scale {value:g} for "
            f"{quoted(self._codes)}, and a scale has to be finite, and not zero unless all of "
            "its codes are"
        )


@functools.cache
def _unusual(dtype: str) -> list[int]:
    """Return the codes of 8 bits that are zero or no finite number."""
    values = values_of(dtype)
    return np.flatnonzero(~np.isfinite(values) | (values == 0)).tolist()
