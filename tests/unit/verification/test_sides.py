"""A sample has at least one of each, and all of them if it is everything."""

import random

import pytest

from streamconv.verification.sides import EVERYTHING, Sample


@pytest.mark.parametrize(
    ("share", "count", "chosen"),
    [(1.0, 128, 128), (0.05, 128, 7), (0.05, 1, 1), (0.001, 10, 1), (0.5, 3, 2)],
)
def test_how_many_are_chosen(share: float, count: int, chosen: int) -> None:
    sample = Sample(share, random.Random(3))
    experts = sample.experts(count)
    assert len(experts) == chosen
    assert experts == sorted(set(experts))
    assert set(experts) <= set(range(count))
    names = [f"tensor {k}" for k in range(count)]
    assert len(sample.of(names)) == chosen
    assert sample.of(names) <= set(names)


def test_everything() -> None:
    assert EVERYTHING.experts(5) == [0, 1, 2, 3, 4]
    assert EVERYTHING.of(["a", "b"]) == {"a", "b"}
    assert EVERYTHING.of([]) == set()
