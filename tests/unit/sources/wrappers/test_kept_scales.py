"""Scales are kept as far as there is room, those of the newest weights."""

import numpy as np

from streamconv.sources.wrappers.kept_scales import Array, KeptScales

A, B, C = (("a", None), ("b", None), ("c", None))


def scales(count: int, value: float = 0) -> Array:
    return np.full(count, value, np.float32)


def test_bands_of_a_weight() -> None:
    kept = KeptScales(100)
    kept.put(A, 0, scales(2, 1))
    kept.put(A, 3, scales(2, 2))
    found = [kept.get(A, number) for number in (0, 3, 1)]
    assert [None if each is None else each.tolist() for each in found] == [[1, 1], [2, 2], None]
    assert kept.get(B, 0) is None


def test_the_oldest_weight_makes_room() -> None:
    """With all of its bands; and a weight that is too large by itself is not kept."""
    kept = KeptScales(16)
    for number in range(2):
        kept.put(A, number, scales(1))
    kept.put(B, 0, scales(2))
    assert kept.get(A, 1) is not None
    kept.put(C, 0, scales(1))
    assert [kept.get(weight, 0) is not None for weight in (A, B, C)] == [False, True, True]
    kept.put(A, 0, scales(5))
    assert [kept.get(weight, 0) is not None for weight in (A, B, C)] == [False, False, False]


def test_what_was_read_makes_room() -> None:
    kept = KeptScales(8)
    kept.put(A, 0, scales(2))
    kept.drop(A)
    kept.drop(B)
    assert kept.get(A, 0) is None
    kept.put(B, 0, scales(1))
    kept.put(C, 0, scales(1))
    assert kept.get(B, 0) is not None


def test_a_band_that_is_put_again_counts_once() -> None:
    kept = KeptScales(8)
    for _ in range(3):
        kept.put(A, 0, scales(1))
    kept.put(B, 0, scales(1))
    assert kept.get(A, 0) is not None
