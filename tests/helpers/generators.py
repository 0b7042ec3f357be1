"""Generators that yield progress and return a result."""

from collections.abc import Generator
from typing import Any, TypeVar

Result = TypeVar("Result")


def returned(steps: Generator[Any, None, Result]) -> Result:
    """Run a generator to its end and return what it returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result
