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
from streamconv.formats.safetensors import DTYPE_BITS
from streamconv.quantization.dtype_kernels import STORED, narrow
from streamconv.quantization.grids import Grids
from streamconv.quantization.pair_tables import has_pair_table, look_up, pair_table
from streamconv.quantization.unpack import LoadedPlane, grid_rows, values_of_bytes
from streamconv.quantization.workspace import Workspace

Array = npt.NDArray[Any]

TABLE = 256
"""Codes of 8 bits: entries of a table of results."""
TILE = 2**17
"""Elements that are computed at once: enough to hide the calls, few enough for the cache."""


class RowDecoder:
    """Decodes rows of one matrix. Its tensors are in memory, as far as they are needed."""

    def __init__(
        self,
        decoding: Decoding,
        codes: LoadedPlane,
        others: Mapping[str, LoadedPlane],
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
        self._grids = Grids(decoding, codes.name, others, workspace)
        self._has_pairs = has_pair_table(decoding, target) and self._grids.seconds_are_in_rows()
        self._row: tuple[int, memoryview] | None = None

    def row(self, number: int) -> memoryview:
        """Return the bytes of a row of the matrix. The last one is kept. Raises BadCheckpoint."""
        if self._row is None or self._row[0] != number:
            itemsize = np.dtype(STORED[self._target]).itemsize
            row = memoryview(bytearray(self._decoding.shape[1] * itemsize))
            self.decode(range(number, number + 1), row)
            self._row = number, row
        return self._row[1]

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
            if self._has_pairs and self._grids.are_usual(rows):
                self._look_up_pairs(rows, result)
                return
            scales = self._grids.first_scales(rows)
            if scales.all() and self._has_tables():
                self._look_up(rows, result, scales)
            else:
                self._compute(rows, result, scales)  # the only way that looks at the codes

    # --- codes of 4 bits whose scales have 8: one table for all scales ---

    def _look_up_pairs(self, rows: range, result: Array) -> None:
        """Fill the result from the lookup table of each second scale, or of none."""
        for part, second in self._grids.parts_by_second(rows):
            table = pair_table(self._decoding, second, self._target, self._workspace)
            for tile in self._tiles(part, TILE * self._bytes_of_element()):
                into = result[tile.start - rows.start : tile.stop - rows.start]
                look_up(table, self._codes, self._others, tile, into, self._workspace)

    def _bytes_of_element(self) -> int:
        """Return the bytes of an element of codes that has several rows; 1 for others.

        Numbers are looked up for one byte of each element at once.
        """
        plane = self._codes.plane
        return DTYPE_BITS[plane.dtype] // 8 if plane.packed == "rows" else 1

    # --- codes of 8 bits that share a scale: one table of results for each scale ---

    def _has_tables(self) -> bool:
        """Return True if more codes share a scale than it has possible results."""
        codes, scale = self._codes.plane, self._others["scale"].plane
        rows, columns = self._decoding.shape
        shared = min(scale.block[0], rows) * min(scale.block[1], columns)
        is_byte = codes.bits == 8 and not (codes.is_transposed or codes.packed == "rows")
        is_in_order = self._grids.groups is None
        return is_byte and shared >= TABLE and scale.shape[1] <= TABLE and is_in_order

    def _look_up(self, rows: range, result: Array, scales: Array) -> None:
        """Fill the result from lookup tables, one for each scale in a row of scales.

        The index of an entry is the number of its table and the code.
        """
        height, width = self._others["scale"].plane.block
        columns = result.shape[1]
        across = (np.arange(columns) // width * TABLE).astype(np.uint16)
        step = max(TILE // columns, 1)
        shape = step, columns
        whole_places = self._workspace.array("places", step * columns, np.uint16).reshape(shape)
        whole_index = self._workspace.array("spare", step * columns, np.intp).reshape(shape)
        begin = rows.start
        while begin < rows.stop:
            end = min((begin // height + 1) * height, rows.stop)
            number = begin // height - rows.start // height
            tables = self._tables(range(begin, end), scales[number : number + 1])
            for at in range(begin, end, step):
                last = min(at + step, end)
                places, index = whole_places[: last - at], whole_index[: last - at]
                codes = self._codes.rows[at - self._codes.first : last - self._codes.first]
                np.copyto(places, codes[:, :columns])
                np.add(places, across, out=places)
                np.copyto(index, places)
                into = result[at - rows.start : last - rows.start]
                tables.take(index, out=into, mode="clip")
            begin = end

    def _tables(self, rows: range, scales: Array) -> Array:
        """Return a table of all results for each scale of some rows, in the target's dtype.

        Rows of one block are often decoded by several calls, so the last tables are kept.
        """
        scales = self._grids.with_second(scales, rows).reshape(-1, 1)
        zeros = self._grids.rows("zero", rows).reshape(-1, 1) if "zero" in self._others else None
        plane = self._codes.plane
        kept_zeros = b"" if zeros is None else zeros.tobytes()
        key = plane.dtype, plane.values, plane.offset, self._target, scales.tobytes(), kept_zeros

        def results() -> Array:
            values = np.repeat(values_of_bytes(plane)[None, :], len(scales), axis=0)
            if zeros is not None:
                values -= zeros
            values *= scales
            flat = values.reshape(-1)
            tables: Array = np.empty(flat.shape, STORED[self._target])
            narrow(flat, np.empty(flat.shape, np.uint32), self._target, tables)
            return tables

        return self._workspace.table(key, results)

    # --- all others: by arithmetic, in tiles ---

    def _compute(self, rows: range, result: Array, scales: Array) -> None:
        """Fill the result by arithmetic. `scales` are the scales of the rows before the second."""
        is_zero = scales == 0
        scales = self._grids.with_second(scales, rows)
        grids: list[tuple[str, Any, Array]] = [("scale", np.multiply, scales)]
        if "zero" in self._others:
            grids.insert(0, ("zero", np.subtract, self._grids.rows("zero", rows)))
        are_numbers = self._codes.plane.values != "float" and bool(np.isfinite(scales).all())
        for tile in self._tiles(rows, TILE):
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
            flat, narrowed = values.reshape(-1), into.reshape(-1)
            narrow(flat, spare, self._target, narrowed, are_numbers=are_numbers)

    def _tiles(self, rows: range, elements: int) -> Iterator[range]:
        """Cut rows into tiles of so many elements, each with one row of scales or one per row."""
        height = self._others["scale"].plane.block[0]
        step = max(elements // self._decoding.shape[1], 1)
        if height > 1:
            step = -(-height // -(-height // step))
        if self._codes.plane.packed == "rows":
            per_element = DTYPE_BITS[self._codes.plane.dtype] // self._codes.plane.bits
            step = -(-step // per_element) * per_element
        begin = rows.start
        while begin < rows.stop:
            within = begin % height if height > 1 else begin
            end = min(begin + step - within % step, rows.stop)
            if height > 1:
                end = min(end, begin + height - within)
            yield range(begin, end)
            begin = end

    def _check_zeros(self, values: Array, is_zero: Array) -> None:
        """Raise BadCheckpoint unless everything under a scale that is zero is zero, too.

        Quantizers give such a scale to a block of zeros.
        """
        if is_zero.any():
            under = np.zeros_like(values)
            self._apply(np.add, under, is_zero.astype(np.float32), "scale")
            if values[under == 1].any():
                raise self._grids.bad_scale("scale", 0)

    def _apply(self, operation: Any, values: Array, grid: Array, role: str) -> None:
        """Apply a grid to all elements, each number to its block of a row."""
        columns = values.shape[1]
        width = self._others[role].plane.block[1] if self._grids.groups is None else 1
        if grid.shape[1] == 1 or grid.shape[1] == columns:
            operation(values, grid, out=values)
        elif grid.shape[1] * width == columns:
            blocks = values.reshape(len(values), -1, width)
            operation(blocks, grid[:, :, None], out=blocks)
        else:
            operation(values, np.repeat(grid, width, axis=1)[:, :columns], out=values)
