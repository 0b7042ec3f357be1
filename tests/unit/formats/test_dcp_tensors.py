"""Chunks that fill their tensor are admitted, compared with an array that counts each element."""

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamconv.errors import BadCheckpoint
from streamconv.formats.dcp_tensors import Chunk, StoredTensor, check_chunks

Box = tuple[tuple[int, ...], tuple[int, ...]]
"""Offsets and sizes."""


def tensor(shape: tuple[int, ...], *boxes: Box) -> StoredTensor:
    chunks = tuple(Chunk(offsets, sizes, "__0_0.distcp", 0, 0) for offsets, sizes in boxes)
    return StoredTensor("w", ("w",), "BF16", shape, chunks)


def grid(shape: tuple[int, ...], cuts: list[list[int]]) -> list[Box]:
    """Cut a tensor along each axis, as a device mesh does."""
    edges = [sorted({0, size, *cut}) for size, cut in zip(shape, cuts, strict=True)]
    spans = [list(itertools.pairwise(edge)) for edge in edges]
    return [
        (tuple(a for a, _ in box), tuple(b - a for a, b in box))
        for box in itertools.product(*spans)
    ]


def fills(shape: tuple[int, ...], boxes: list[Box]) -> bool:
    """Return True if each element is in exactly one box and no box is cut off by the shape."""
    count = np.zeros(shape, int)
    for offsets, sizes in boxes:
        part = count[tuple(slice(o, o + s) for o, s in zip(offsets, sizes, strict=True))]
        if part.shape != sizes:
            return False
        part += 1
    return bool((count == 1).all()) and bool(boxes)


shapes = st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple)


@settings(deadline=None)
@given(shapes, st.data())
def test_a_grid_of_chunks_in_any_order(shape: tuple[int, ...], data: st.DataObject) -> None:
    cuts = [data.draw(st.lists(st.integers(1, size))) for size in shape]
    cuts = [[c for c in cut if c < size] for cut, size in zip(cuts, shape, strict=True)]
    check_chunks(tensor(shape, *data.draw(st.permutations(grid(shape, cuts)))))


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.tuples(
            st.tuples(st.integers(0, 3), st.integers(0, 3)),
            st.tuples(st.integers(1, 3), st.integers(1, 3)),
        ),
        max_size=4,
    )
)
@example([((0, 0), (1, 3)), ((1, 0), (2, 2)), ((1, 2), (2, 1))])
def test_any_chunks_are_judged_by_their_elements(boxes: list[Box]) -> None:
    if fills((3, 3), boxes):
        check_chunks(tensor((3, 3), *boxes))
    else:
        with pytest.raises(BadCheckpoint, match=r"^cannot read tensor w \[3, 3\]: its"):
            check_chunks(tensor((3, 3), *boxes))


@pytest.mark.parametrize(
    ("boxes", "fact"),
    [
        (
            [((0, 0), (2, 3)), ((2, 0), (2, 3))],
            r"its chunk \[2, 3\] at \[2, 0\] lies outside of it",
        ),
        (
            [((0, 0), (2, 3)), ((1, 0), (2, 3))],
            r"\[2, 3\] at \[0, 0\] and \[2, 3\] at \[1, 0\] over",
        ),
        ([((0, 0), (2, 3))], "its 1 chunks hold 6 of 9 elements: a chunk is missing"),
        ([((0,), (3,))], "lies outside of it"),
    ],
)
def test_the_fact_in_the_message(boxes: list[Box], fact: str) -> None:
    with pytest.raises(BadCheckpoint, match=fact):
        check_chunks(tensor((3, 3), *boxes))


def test_scalars() -> None:
    """A scalar has one element, so that two chunks of it overlap."""
    check_chunks(tensor((), ((), ())))
    with pytest.raises(BadCheckpoint, match="overlap"):
        check_chunks(tensor((), ((), ()), ((), ())))


def test_many_chunks_take_no_square_of_their_number() -> None:
    """As a tensor of 20,000 rows that as many ranks hold: pairs would be 200 million."""
    check_chunks(tensor((20_000, 4), *(((row, 0), (1, 4)) for row in range(20_000))))
