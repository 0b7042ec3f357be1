"""A tensor of an open checkpoint. An index reads what it selects."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

from streamconv.errors import UsageError, quoted, wrong_type
from streamconv.lazy.arrays import Arrays, nbytes_of
from streamconv.lazy.as_array import AsArray
from streamconv.lazy.indexing import Selection, select_numpy, select_torch, select_whole
from streamconv.lazy.not_copied import NotCopied
from streamconv.lazy.reading import SliceReader
from streamconv.planning.steps import Step
from streamconv.units import MAX_BYTES

Segments = Callable[[int], Sequence[int]]
"""Returns the lengths that a dimension consists of. Each of them is divided among ranks."""


class LazyTensor(AsArray, NotCopied):
    """A tensor that is read only as far as it is indexed.

    It is indexed like a slice of safetensors, and every index reads the bytes that it selects.
    Where an array is taken, such as by `numpy.asarray`, it is read whole.
    """

    def __init__(
        self, step: Step, reader: SliceReader, arrays: Arrays, *, is_torch: bool, segments: Segments
    ) -> None:
        self._step = step
        self._reader = reader
        self._arrays = arrays
        self._is_torch = is_torch
        self._segments = segments

    @property
    def name(self) -> str:
        """Name of the tensor in the checkpoint as it was opened."""
        return self._step.name

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape, in elements."""
        return self._step.shape

    @property
    def nbytes(self) -> int:
        """Its bytes."""
        return self._step.nbytes

    @property
    def dtype(self) -> Any:
        """The dtype of the framework."""
        return self._arrays.dtype(self._step.dtype)

    @property
    def place(self) -> tuple[str, int]:
        """File and offset of the first byte of the first tensor that it is read from."""
        first = self._step.inputs[0].stored[0]
        return first.file, first.offset

    @property
    def units(self) -> tuple[int, ...]:
        """The lengths that make up the first dimension: one for each expert, if it has several."""
        step = self._step
        if not step.nbytes or not step.shape:
            return step.shape[:1]
        row_bytes = step.nbytes // step.shape[0]
        lengths: list[int] = []
        for how in step.sections:
            if how.unit_bytes % row_bytes:
                lengths.append(how.units * how.unit_bytes // row_bytes)
            else:
                lengths += [how.unit_bytes // row_bytes] * how.units
        return tuple(lengths)

    def get_shape(self) -> list[int]:
        """Return its shape, as a slice of safetensors does."""
        return list(self._step.shape)

    def get_dtype(self) -> str:
        """Return its dtype in the words of safetensors, such as `BF16`."""
        return self._step.dtype

    def __getitem__(self, index: Any) -> Any:
        """Read what an index selects.

        Args:
            index: Numbers, slices, an ellipsis; with torch, any index that torch takes. An index
                that has other parts reads the whole tensor.

        Returns:
            A tensor of torch or an array of numpy, which outlives the checkpoint.

        Raises:
            IndexError, SafetensorError: The index is out of bounds, as safetensors has it.
            UsageError: The checkpoint is closed.
            SourceChanged: A file has changed since the checkpoint was opened.
            IOFailed: Reading failed.
        """
        select = select_torch if self._is_torch else select_numpy
        selection: Selection | None = select(index, self._step.shape)
        if selection is None:
            return self.read()[index]
        array = self._reader.read(self._step, selection.box)
        return array[selection.then] if selection.then else array

    def read(self) -> Any:
        """Read the whole tensor. Raises what an index raises."""
        return self._reader.read(self._step, select_whole(self._step.shape).box)

    def read_box(self, box: Sequence[tuple[int, int]]) -> Any:
        """Read a box, which is a range on each dimension. Raises what an index raises."""
        return self._reader.read(self._step, self._checked(box))

    def read_into(self, box: Sequence[tuple[int, int]], memory: memoryview) -> None:
        """Read a box into memory of its size in bytes, writable and contiguous.

        Raises UsageError if it is not, and what an index raises, even if the box is empty.
        """
        box = self._checked(box)
        view = memoryview(memory)
        if view.readonly or not view.c_contiguous:
            is_what = "read-only" if view.readonly else "not contiguous"
            raise UsageError(f"cannot read {quoted(self.name)} into memory that is {is_what}")
        nbytes = nbytes_of(self.get_dtype(), [end - begin for begin, end in box])
        if view.nbytes != nbytes:
            raise UsageError(
                f"cannot read {nbytes:,} bytes of {quoted(self.name)} into "
                f"{view.nbytes:,} bytes of memory"
            )
        self._reader.fill(self._step, box, view.cast("B") if nbytes else memoryview(b""))

    def shard(self, axis: int, rank: int, of: int) -> Any:
        """Read the share that a rank has of the tensor if it is divided along a dimension.

        If gate and up share the dimension, one after the other or in turn, each is divided.

        Args:
            axis: The dimension, counted from the end if it is negative.
            rank: Number of the share, from 0.
            of: Number of shares, which have to be equal.

        Returns:
            A tensor of torch or an array of numpy: all other dimensions are whole.

        Raises:
            UsageError: There is no such dimension or share, or the shares would not be equal.
            UsageError, SourceChanged, IOFailed: As an index does.
        """
        for name, value in (("axis", axis), ("rank", rank), ("of", of)):
            if not hasattr(value, "__index__"):
                raise wrong_type("LazyTensor.shard", name, "int", value)
        axis, rank, of = map(operator.index, (axis, rank, of))
        if max(map(abs, (axis, rank, of))) > MAX_BYTES:  # Python prints at most 4300 digits
            raise UsageError(f"cannot divide {quoted(self.name)}: a number is beyond any size")
        shape = self._step.shape
        if not -len(shape) <= axis < len(shape):
            raise UsageError(
                f"cannot divide {quoted(self.name)} along axis {axis}: it has {len(shape)}"
            )
        axis %= len(shape)
        segments = self._segments(axis)
        share = f"cannot take share {rank} of {of} of {quoted(self.name)} along axis {axis}"
        if of < 1 or not 0 <= rank < of:
            raise UsageError(f"{share}: shares count from 0 to {max(of, 1) - 1}")
        if any(length % of for length in segments):
            lengths = " + ".join(map(str, segments))
            raise UsageError(f"{share}: its {lengths} rows are not {of} equal shares")
        boxes, begin = [], 0
        for length in segments:
            own = length // of
            boxes.append(self._box(axis, begin + rank * own, begin + (rank + 1) * own))
            begin += length
        return self._reader.read_joined(self._step, axis, boxes)

    def _checked(self, box: Sequence[tuple[int, int]]) -> Sequence[tuple[int, int]]:
        """Return a box that is one of this tensor. Raises TypeError or IndexError otherwise."""
        try:
            box = [(operator.index(begin), operator.index(end)) for begin, end in box]
        except (TypeError, ValueError):
            raise wrong_type(
                "LazyTensor.read_box", "box", "a range for each dimension", box
            ) from None
        inside = len(box) == len(self.shape) and all(
            0 <= begin <= end <= extent
            for (begin, end), extent in zip(box, self.shape, strict=True)
        )
        if not inside:
            is_shown = all(abs(number) <= MAX_BYTES for span in box for number in span)
            shown = list(box) if is_shown else "of numbers beyond any size"
            raise IndexError(f"box {shown} is out of bounds for a tensor of {self.get_shape()}")
        return box

    def _box(self, axis: int, begin: int, end: int) -> Sequence[tuple[int, int]]:
        box = list(select_whole(self._step.shape).box)
        box[axis] = begin, end
        return box

    def __repr__(self) -> str:
        return f"LazyTensor({self.name!r}, {self.get_dtype()}, {self.get_shape()})"
