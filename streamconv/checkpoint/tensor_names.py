"""What the names of tensors say: their order, their layer, and which of them are alike."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TypeVar

from streamconv.errors import quoted

Item = TypeVar("Item")

MAX_SHOWN_KINDS = 8
"""Kinds of names that `summarize_names` lists before it only counts them."""

_DIGITS = re.compile(r"([0-9]{1,18})")
_NUMBER = re.compile(r"(?<![^.])[0-9]{1,18}(?=\.)")


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Return a sort key that puts `experts.10` after `experts.9`."""
    parts: list[str | int] = list(_DIGITS.split(name))
    parts[1::2] = map(int, parts[1::2])
    return parts, name


def sort_naturally(items: Iterable[Item], name_of: Callable[[Item], str]) -> list[Item]:
    """Return the items in the order of their names' natural keys.

    They are compared by one text for each name, which takes a fifth of the key's memory. In it,
    characters that no name has end what is not a number, and the name; a number is preceded by
    how many digits it has.
    """
    items = list(items)
    if any("\0" in name or "\1" in name for name in map(name_of, items)):
        return sorted(items, key=lambda item: natural_key(name_of(item)))
    return sorted(items, key=lambda item: _text_key(name_of(item)))


def _text_key(name: str) -> str:
    return f"{_DIGITS.sub(_number_key, name)}\0{name}"


def _number_key(match: re.Match[str]) -> str:
    digits = match[0].lstrip("0")
    return f"\1{chr(len(digits))}{digits}"


def pattern_of(prefix: str) -> str:
    """Replace every number between dots by *, so that the layers of a stack have one pattern."""
    return _NUMBER.sub("*", prefix)


def layer_of(prefix: str) -> tuple[str, int] | None:
    """Return the path of the list of layers that has `prefix`, and the number of the layer.

    The outermost number counts: `model.layers.3.mlp.experts.5.` is layer 3 of `model.layers.`.
    None if there is no number.
    """
    number = _NUMBER.search(prefix)
    return (prefix[: number.start()], int(number[0])) if number else None


def summarize_names(names: Iterable[str]) -> str:
    """List names in one line, as a pattern and a count for those that differ in numbers only."""
    counts = Counter(map(pattern_of, names))
    shown = [f"{quoted(kind)} ({count:,})" for kind, count in counts.most_common(MAX_SHOWN_KINDS)]
    rest = len(counts) - len(shown)
    return ", ".join([*shown, *([f"{rest} more kinds"] if rest else [])])
