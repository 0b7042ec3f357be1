"""The parts of a piece are held in few bytes, and come back as they were added."""

import tracemalloc
from collections.abc import Iterable

import pytest

from streamconv.planning.rearrangement import copy_of
from streamconv.planning.shards import FramingBytes, PieceParts, ShardPart, StepBytes
from streamconv.planning.steps import Step

STEPS = (Step("w", "F32", (8,), 0, (), (copy_of(32), copy_of(32))),) * 3


def whole(index: int, section: int, units: Iterable[int]) -> list[ShardPart]:
    return [StepBytes(STEPS, index, section, unit, 0, 32) for unit in units]


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [FramingBytes(0, 40)],
        [FramingBytes(0, 40), FramingBytes(1, 40), *whole(0, 0, range(3)), FramingBytes(0, 40)],
        [*whole(0, 0, range(3)), *whole(0, 1, range(3, 5)), *whole(1, 1, range(5, 7))],
        [*whole(0, 0, [0, 1, 1, 2, 4, 3])],
        [StepBytes(STEPS, 0, 0, unit, cut, cut + 8) for unit in range(3) for cut in (0, 8)],
        [StepBytes(STEPS, 2, 0, unit, 8, 16) for unit in range(3)] + whole(2, 0, [3]),
    ],
)
def test_what_was_added_comes_back(parts: list[ShardPart]) -> None:
    """In both directions, and counted."""
    held = PieceParts(STEPS)
    for part in parts:
        held.append(part)
    assert ([*held], [*reversed(held)], len(held)) == (parts, parts[::-1], len(parts))
    assert bool(held) == bool(parts)


def test_many_units_take_few_bytes() -> None:
    """A piece of experts with few bytes has a hundred thousand units; several are held ahead."""
    tracemalloc.start()
    try:
        held = PieceParts(STEPS)
        for part in (StepBytes(STEPS, 0, 0, unit, 0, 32) for unit in range(100_000)):
            held.append(part)
        assert tracemalloc.get_traced_memory()[0] < 10_000
    finally:
        tracemalloc.stop()
    assert len(held) == 100_000
