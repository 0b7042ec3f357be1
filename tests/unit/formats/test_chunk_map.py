"""The runs of a box, compared with the positions that numpy gives to its elements."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamconv.formats.chunk_map import Box, ChunkMap, box_of

ITEMSIZE = 2


def positions(
    shape: tuple[int, ...], offsets: tuple[int, ...], sizes: tuple[int, ...]
) -> list[int]:
    """Return the bytes of the tensor at which the elements of a chunk begin, in its order."""
    numbers = np.arange(int(np.prod(shape))).reshape(shape) * ITEMSIZE
    chunk = numbers[tuple(slice(o, o + s) for o, s in zip(offsets, sizes, strict=True))]
    return [int(number) for number in chunk.ravel()]


def elements(box: Box) -> list[int]:
    """Return the same from the runs of a box."""
    return [
        box.position(run) + byte for run in range(box.runs) for byte in range(0, box.run, ITEMSIZE)
    ]


@st.composite
def chunks(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Draw a shape, and offsets and sizes of a chunk of it."""
    shape = draw(st.lists(st.integers(1, 5), max_size=4))
    offsets = [draw(st.integers(0, size - 1)) for size in shape]
    sizes = [draw(st.integers(1, size - o)) for size, o in zip(shape, offsets, strict=True)]
    return tuple(shape), tuple(offsets), tuple(sizes)


def test_the_example_of_the_module() -> None:
    box = box_of((4, 6), (0, 2), (4, 3), 1, "f", 100)
    assert (box.file, box.begin, box.run, box.runs) == ("f", 100, 3, 4)
    assert [box.position(k) for k in range(4)] == [2, 8, 14, 20]
    assert box.end == 23


@given(chunks())
def test_runs_are_the_elements_in_their_order(
    chunk: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]],
) -> None:
    box = box_of(*chunk, ITEMSIZE, "f", 0)
    assert elements(box) == positions(*chunk)
    assert box.end == positions(*chunk)[-1] + ITEMSIZE


@given(chunks())
def test_runs_are_as_long_as_they_can_be(
    chunk: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]],
) -> None:
    """After each run there is a byte of the tensor that the chunk does not have."""
    box = box_of(*chunk, ITEMSIZE, "f", 0)
    begins = [box.position(k) for k in range(box.runs)]
    assert all(a + box.run < b for a, b in itertools.pairwise(begins))


@settings(deadline=None)
@given(chunks(), st.integers(0, 1300), st.integers(0, 1300))
def test_runs_within_a_range(
    chunk: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]], one: int, other: int
) -> None:
    start, end = sorted((one, other))
    box = box_of(*chunk, ITEMSIZE, "f", 0)
    expected = [
        k for k in range(box.runs) if box.position(k) < end and box.position(k) + box.run > start
    ]
    if start < end:
        assert list(box.within(start, end)) == expected


@pytest.mark.parametrize("split", [1, 2, 5])
@given(start=st.integers(0, 240), nbytes=st.integers(1, 60))
@settings(deadline=None)
def test_each_byte_of_a_tensor_has_one_box(split: int, start: int, nbytes: int) -> None:
    """Of a tensor in a grid of boxes, whose ranges of bytes interleave."""
    shape, end = (10, 12), min(start + nbytes, 240)
    boxes = [
        box_of(shape, (row, column), (5, min(split, 12 - column)), ITEMSIZE, f"{row} {column}", 0)
        for row in (5, 0)
        for column in range(0, 12, split)
    ]
    found: list[int] = []
    for box, runs in ChunkMap.of(boxes).within(start, end):
        for run in runs:
            begin = box.position(run)
            found += range(max(begin, start), min(begin + box.run, end))
    assert sorted(found) == list(range(start, end))
