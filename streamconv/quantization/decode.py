"""Decode rows of quantized matrices, in tiles that stay in the processor's cache.

A table maps codes to float32, their zero points are subtracted, and the product with their scale
is rounded once. So the result is that of torch: `((code - zero) * scale).to(dtype)` in float32.
If codes and scales are so narrow that all their products fit into a table, they are looked up.

`verification/dequantize.py` computes the same in another way, and neither uses the other.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from streamconv.checkpoint.decoding import Decoding
from streamconv.errors import BadCheckpoint, quoted
from streamconv.formats.safetensors import DTYPE_BITS
from streamconv.quantization.dtype_kernels import STORED, as_float32, narrow
from streamconv.quantization.pair_tables import has_pair_table, look_up, pair_table
from streamconv.quantization.unpack import Loaded, grid_rows, values_of_bytes
from streamconv.quantization.workspace import Workspace

Array = npt.NDArray[Any]

_INTEGERS = {"I8": np.int8, "I32": np.int32, "I64": np.int64}
TABLE = 256
"""Codes of 8 bits: entries of a table of results."""
TILE = 2**17
"""Elements that are computed at once: enough to hide the calls, few enough for the cache."""


class RowDecoder:
    """Decodes rows of one matrix, of which the needed part is in memory."""

    def __init__(
        self,
        decoding: Decoding,
        codes: Loaded,
        others: Mapping[str, Loaded],
        target: str,
        workspace: Workspace,
    ) -> None:
        """Check everything that concerns the matrix as a whole.

        Args:
            decoding: How the matrix is decoded.
            codes: Its codes.
            others: The tensors that belong to the codes, by role.
            target: BF16, F16 or F32.
            workspace: Memory of the thread.

        Raises:
            BadCheckpoint: The shape or a group index contradicts the plan.
        """
        self._decoding = decoding
        self._codes = codes
        self._others = others
        self._target = target
        self._workspace = workspace
        self._groups = self._group_index()
        self._second = self._second_scale()

    def decode(self, rows: range, out: memoryview) -> None:
        """Fill a buffer with whole rows of the matrix.

        Args:
            rows: The numbers of the rows.
            out: Bytes for as many elements. It may end in the codes of the rows, if these are
                no longer than the rows of the result.

        Raises:
            BadCheckpoint: A scale is NaN or infinite, or zero though its codes are not.
        """
        columns = self._decoding.shape[1]
        result: Array = np.frombuffer(out, STORED[self._target]).reshape(-1, columns)
        with np.errstate(over="ignore", invalid="ignore", under="ignore", divide="ignore"):
            scales = self._scales(rows)
            if not self._grid("scale", rows).all():
                self._compute(rows, result, scales)  # the only way that looks at the codes
            elif has_pair_table(self._decoding, self._target) and self._seconds_are_in_rows():
                for part, second in self._parts_by_second(rows):
                    table = pair_table(self._decoding, second, self._target, self._workspace)
                    for tile in self._tiles(part):
                        into = result[tile.start - rows.start : tile.stop - rows.start]
                        look_up(table, self._codes, self._others, tile, into, self._workspace)
            elif self._has_tables():
                self._look_up(rows, result)
            else:
                self._compute(rows, result, scales)

    # --- codes of 8 bits that share a scale: one table of results for each scale ---

    def _has_tables(self) -> bool:
        """Return True if more codes share a scale than it has possible results."""
        codes, scale = self._codes.plane, self._others["scale"].plane
        rows, columns = self._decoding.shape
        shared = min(scale.block[0], rows) * min(scale.block[1], columns)
        is_byte = codes.bits == 8 and not (codes.is_transposed or codes.packed == "rows")
        return is_byte and shared >= TABLE and scale.shape[1] <= TABLE and self._groups is None

    def _look_up(self, rows: range, result: Array) -> None:
        """Fill the result from lookup tables, one for each scale in a row of scales.

        The index of an entry is the number of its table and the code.
        """
        height, width = self._others["scale"].plane.block
        columns = result.shape[1]
        across = np.arange(columns) // width * TABLE
        step = max(TILE // columns, 1)
        index = self._workspace.array("spare", step * columns, np.intp).reshape(step, columns)
        begin = rows.start
        while begin < rows.stop:
            end = min((begin // height + 1) * height, rows.stop)
            tables = self._tables(range(begin, end))
            for at in range(begin, end, step):
                last = min(at + step, end)
                places = index[: last - at]
                codes = self._codes.rows[at - self._codes.first : last - self._codes.first]
                np.copyto(places, codes[:, :columns])
                np.add(places, across, out=places)
                into = result[at - rows.start : last - rows.start]
                np.take(tables, places, out=into, mode="clip")
            begin = end

    def _tables(self, rows: range) -> Array:
        """Return a table of all results for each scale of some rows, in the target's dtype."""
        scales = self._scales(rows).reshape(-1, 1)
        codes = values_of_bytes(self._codes.plane)
        values = np.repeat(codes[None, :], len(scales), axis=0)
        if "zero" in self._others:
            values -= self._grid("zero", rows).reshape(-1, 1)
        values *= scales
        flat = values.reshape(-1)
        tables: Array = np.empty(flat.shape, STORED[self._target])
        narrow(flat, np.empty(flat.shape, np.uint32), self._target, tables)
        return tables

    # --- all others: by arithmetic, in tiles ---

    def _compute(self, rows: range, result: Array, scales: Array) -> None:
        """Fill the result by arithmetic. `scales` are those of the rows."""
        grids: list[tuple[str, Any, Array]] = [("scale", np.multiply, scales)]
        is_zero = self._grid("scale", rows) == 0
        if "zero" in self._others:
            grids.insert(0, ("zero", np.subtract, self._grid("zero", rows)))
        for tile in self._tiles(rows):
            values = grid_rows(self._codes, tile, result.shape[1], "codes", self._workspace)
            for role, operation, grid in grids:
                height = self._others[role].plane.block[0]
                above = rows.start // height
                first, last = tile.start // height, (tile.stop - 1) // height + 1
                if role == "scale":
                    self._check_zeros(values, is_zero[first - above : last - above])
                self._apply(operation, values, grid[first - above : last - above], role)
            into = result[tile.start - rows.start : tile.stop - rows.start]
            spare = self._workspace.array("spare", values.size, np.uint32)
            narrow(values.reshape(-1), spare, self._target, into.reshape(-1))

    def _tiles(self, rows: range) -> Iterator[range]:
        """Cut rows into tiles that fit in the cache, each with one row of scales or one per row."""
        scale = self._others["scale"].plane
        step = max(TILE // self._decoding.shape[1], 1)
        if self._codes.plane.packed == "rows":
            per_element = DTYPE_BITS[self._codes.plane.dtype] // self._codes.plane.bits
            step = -(-step // per_element) * per_element
        begin = rows.start
        while begin < rows.stop:
            end = min(begin + step - begin % step, rows.stop)
            if scale.block[0] > 1:
                end = min(end, begin + scale.block[0] - begin % scale.block[0])
            yield range(begin, end)
            begin = end

    # --- the numbers of a plane ---

    def _grid(self, role: str, rows: range) -> Array:
        """Return the rows of a grid that belong to rows of the matrix."""
        loaded = self._others[role]
        block = loaded.plane.block[0]
        needed = range(rows.start // block, (rows.stop - 1) // block + 1)
        values = grid_rows(loaded, needed, loaded.plane.shape[1], role, self._workspace)
        if self._groups is None:
            return values
        if len(self._groups) == 1:
            return values[:, self._groups[0]]
        index = self._others["index"].plane
        own = np.arange(needed.start, needed.stop) * block // index.block[0]
        taken: Array = np.take_along_axis(values, self._groups[own], axis=1)
        return taken

    def _scales(self, rows: range) -> Array:
        """Return the scales of some rows, with the second one. Raises BadCheckpoint."""
        scales = self._grid("scale", rows)
        if not np.isfinite(scales).all():
            raise self._bad_scale("scale", scales[~np.isfinite(scales)][0])
        if self._second is not None:
            combine = np.multiply if self._decoding.second == "multiplies" else np.divide
            scales = combine(scales, self._second_of(rows, scales.shape[1]))
        return scales

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

    def _seconds_are_in_rows(self) -> bool:
        """Return True if all elements of a row have one second scale, or none."""
        return self._second is None or self._second.shape[1] == 1

    def _parts_by_second(self, rows: range) -> Iterator[tuple[range, np.float32 | None]]:
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

    def _check_zeros(self, values: Array, is_zero: Array) -> None:
        """Raise BadCheckpoint unless everything under a scale that is zero is zero, too.

        Quantizers give such a scale to a block of zeros.
        """
        if is_zero.any():
            under = np.zeros_like(values)
            self._apply(np.add, under, is_zero.astype(np.float32), "scale")
            if values[under == 1].any():
                raise self._bad_scale("scale", 0)

    def _apply(self, operation: Any, values: Array, grid: Array, role: str) -> None:
        """Apply a grid to all elements, each number to its block of a row."""
        columns = values.shape[1]
        width = self._others[role].plane.block[1] if self._groups is None else 1
        if grid.shape[1] == 1 or grid.shape[1] == columns:
            operation(values, grid, out=values)
        elif grid.shape[1] * width == columns:
            blocks = values.reshape(len(values), -1, width)
            operation(blocks, grid[:, :, None], out=blocks)
        else:
            operation(values, np.repeat(grid, width, axis=1)[:, :columns], out=values)

    # --- the matrix as a whole ---

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
            raise self._bad_scale("second", values[wrong][0])
        return values

    def _bad_scale(self, role: str, value: float) -> BadCheckpoint:
        return BadCheckpoint(
            f"tensor {quoted(self._others[role].name)} holds the scale {value:g} for "
            f"{quoted(self._codes.name)}, and a scale has to be finite, and not zero unless all of "
            "its codes are"
        )
