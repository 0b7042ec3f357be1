"""A few combinations in which every two values still meet."""

import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any


def pairwise(
    *axes: Sequence[Any], exists: Callable[..., bool] = lambda *_: True
) -> list[tuple[Any, ...]]:
    """Return combinations of a value of each axis in which any two of them that can meet, do.

    They are the same each time, and spread over the axes. `exists` is called with a combination.
    """
    every = [values for values in itertools.product(*axes) if exists(*values)]
    random.Random(0).shuffle(every)
    met: set[tuple[int, Any, int, Any]] = set()
    chosen = []
    for values in every:
        pairs = {
            (i, first, k, second)
            for (i, first), (k, second) in itertools.combinations(enumerate(values), 2)
        }
        if not pairs <= met:
            chosen.append(values)
            met |= pairs
    return chosen
