"""Where the bytes of a tensor are that is stored in boxes. Pure.

A box is a chunk of a tensor, its own bytes in C order. What the tensor has as one stretch of
bytes, a box has in runs: as long as the axes that it holds whole, one after another. They come in
the same order in both, so that what a stretch needs of a box lies together in it.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Box:
    """A chunk, and where its bytes begin."""

    file: str
    begin: int
    """Bytes from the start of the file."""
    first: int
    """Byte of the tensor at which its first run begins."""
    run: int
    """Bytes of a run."""
    axes: tuple[tuple[int, int], ...]
    """Of each axis around the runs, outermost first: how many there are, and the bytes of the
    tensor from one to the next."""

    @property
    def runs(self) -> int:
        return math.prod(count for count, _ in self.axes)

    @property
    def end(self) -> int:
        """Byte of the tensor behind its last run."""
        return self.position(self.runs - 1) + self.run

    def position(self, run: int) -> int:
        """Byte of the tensor at which a run begins."""
        at = self.first
        for count, width in reversed(self.axes):
            run, k = divmod(run, count)
            at += k * width
        return at

    def within(self, start: int, end: int) -> range:
        """The runs that hold any of the tensor's bytes from `start` to `end`."""
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
    """The box at `offsets`, of `sizes` elements, of a tensor of `shape`."""
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
    """The boxes of one tensor."""

    boxes: tuple[Box, ...]
    """In the order of their first bytes."""
    firsts: tuple[int, ...]
    reach: tuple[int, ...]
    """Of each box, the furthest end of it and those before it."""

    @classmethod
    def of(cls, boxes: list[Box]) -> "ChunkMap":
        ordered = tuple(sorted(boxes, key=lambda box: box.first))
        reach, furthest = [], 0
        for box in ordered:
            furthest = max(furthest, box.end)
            reach.append(furthest)
        return cls(ordered, tuple(box.first for box in ordered), tuple(reach))

    def within(self, start: int, end: int) -> Iterator[tuple[Box, range]]:
        """The boxes that hold any of the tensor's bytes from `start` to `end`, and which runs."""
        for number in range(bisect_right(self.reach, start), bisect_left(self.firsts, end)):
            box = self.boxes[number]
            runs = box.within(start, end)
            if runs:
                yield box, runs
