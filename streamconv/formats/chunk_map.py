"""The location of a tensor's bytes in the chunks of a checkpoint.

A box is a chunk of a tensor; its bytes are in C order. A run is a range of bytes that is contiguous
both in the tensor and in the box. For a tensor of 4 x 6 elements:

    box at [0, 2] of 4 x 3     . . a b c .     runs: abc def ghi jkl
                               . . d e f .     in the file: abcdefghijkl
                               . . g h i .
                               . . j k l .

The runs of a box are in the same order in the tensor. So a range of the tensor's bytes needs
consecutive runs of each box, which are one range of the file.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Box:
    """A chunk, the location of its bytes, and its runs."""

    file: str
    begin: int
    """Bytes from the start of the file."""
    first: int
    """Byte of the tensor at which the first run begins."""
    run: int
    """Bytes in a run."""
    axes: tuple[tuple[int, int], ...]
    """For each axis around the runs, outermost first: its size in the box, and the bytes of the
    tensor from one position to the next."""

    @property
    def runs(self) -> int:
        """The number of runs."""
        return math.prod(count for count, _ in self.axes)

    @property
    def end(self) -> int:
        """Byte of the tensor after the last run."""
        return self.position(self.runs - 1) + self.run

    def position(self, run: int) -> int:
        """Return the byte of the tensor at which a run begins."""
        at = self.first
        for count, width in reversed(self.axes):
            run, k = divmod(run, count)
            at += k * width
        return at

    def within(self, start: int, end: int) -> range:
        """Return the runs that contain any of the tensor's bytes from `start` to `end`."""
        runs = range(self.runs)
        first = bisect_right(runs, start - self.run, key=self.position)
        return range(first, max(bisect_left(runs, end, key=self.position), first))


def box_of(
    shape: tuple[int, ...],
    offsets: tuple[int, ...],
    sizes: tuple[int, ...],
    itemsize: int,
    file: str,
    begin: int,
) -> Box:
    """Build the box of a chunk.

    Args:
        shape: Shape of the tensor, in elements.
        offsets: First element of the chunk on each axis.
        sizes: Elements of the chunk on each axis.
        itemsize: Bytes of an element.
        file: The file that holds the chunk.
        begin: Bytes from the start of the file to the chunk.
    """
    widths = [math.prod(shape[axis + 1 :]) * itemsize for axis in range(len(shape))]
    cut = max((axis for axis in range(len(shape)) if sizes[axis] != shape[axis]), default=-1)
    inner = max(cut, 0)
    outer = tuple((sizes[axis], widths[axis]) for axis in range(inner) if sizes[axis] != 1)
    return Box(
        file=file,
        begin=begin,
        first=sum(offset * width for offset, width in zip(offsets, widths, strict=True)),
        run=math.prod(sizes[inner:]) * itemsize,
        axes=outer,
    )


@dataclass(frozen=True, slots=True)
class ChunkMap:
    """The boxes of one tensor, to be looked up by a range of the tensor's bytes."""

    boxes: tuple[Box, ...]
    """In the order of their first bytes."""
    firsts: tuple[int, ...]
    """The first byte of each box."""
    reach: tuple[int, ...]
    """For each box, the largest end of it and all boxes before it."""

    @classmethod
    def of(cls, boxes: list[Box]) -> "ChunkMap":
        """Build the map of these boxes."""
        ordered = tuple(sorted(boxes, key=lambda box: box.first))
        reach, furthest = [], 0
        for box in ordered:
            furthest = max(furthest, box.end)
            reach.append(furthest)
        return cls(ordered, tuple(box.first for box in ordered), tuple(reach))

    def within(self, start: int, end: int) -> Iterator[tuple[Box, range]]:
        """Yield each box that has any of the bytes from `start` to `end`, and those of its runs."""
        for number in range(bisect_right(self.reach, start), bisect_left(self.firsts, end)):
            box = self.boxes[number]
            runs = box.within(start, end)
            if runs:
                yield box, runs
