"""Reads names of tensors: their natural order, their layer, and the patterns that they share."""

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from streamconv.errors import quoted

Item = TypeVar("Item")

MAX_SHOWN_KINDS = 8
"""Kinds of names that `summarize_names` lists before it only counts them."""

_DIGITS = re.compile(r"([0-9]{1,18})")
_NUMBER = re.compile(r"(?<![^.])[0-9]{1,18}(?=\.)")
_ANY_NUMBER = re.compile(r"(?<![^.])[0-9]{1,18}(?![^.])")
_LAST_NUMBER = re.compile(r"((?:.*\.)?)([0-9]{1,18})((?:\..*)?)", re.S)


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Return a sort key that puts `experts.10` after `experts.9`."""
    parts: list[str | int] = list(_DIGITS.split(name))
    parts[1::2] = map(int, parts[1::2])
    return parts, name


def sort_naturally(items: Iterable[Item], name_of: Callable[[Item], str]) -> list[Item]:
    """Return the items in the order of their names' natural keys.

    They are compared by a text for each name, which takes a fifth of the memory of a natural key.
    Only if such texts might be equal for different names, natural keys are compared.
    """
    items = list(items)
    keys = _TextKeys()
    ordered = sorted(items, key=lambda item: keys.of(name_of(item)))
    if keys.are_ambiguous:
        ordered = sorted(items, key=lambda item: natural_key(name_of(item)))
    return ordered


def find_naturally(items: Sequence[Item], name_of: Callable[[Item], str], name: str) -> Item:
    """Return the item called `name`, of items in natural order. Raises KeyError."""
    place = bisect_left(items, natural_key(name), key=lambda item: natural_key(name_of(item)))
    if place == len(items) or name_of(items[place]) != name:
        raise KeyError(name)
    return items[place]


class _TextKeys(dict[str, str]):
    """Turns each name into a text that compares like its natural key.

    Characters that occur in no name mark the end of the name and the start of each number, and the
    count of its digits precedes each number. The dictionary holds the texts of numbers.
    """

    are_ambiguous = False
    """True if some name has one of these characters, or a number with leading zeros."""

    def of(self, name: str) -> str:
        """Return the text of a name."""
        if "\0" in name or "\1" in name:
            self.are_ambiguous = True
        parts = _DIGITS.split(name)
        parts[1::2] = [self[digits] for digits in parts[1::2]]
        return f"{''.join(parts)}\0"

    def __missing__(self, digits: str) -> str:
        number = digits.lstrip("0")
        if digits not in (number, "0"):
            self.are_ambiguous = True
        text = self[digits] = f"\1{chr(len(number))}{number}"
        return text


def pattern_of(prefix: str) -> str:
    """Replace every number between dots, or after the last dot, by *.

    For example, the modules of all layers of a stack have the same pattern.
    """
    return _ANY_NUMBER.sub("*", prefix)


def split_at_last_number(name: str) -> tuple[str, str, str]:
    """Split a name at its last number between or after dots: text before, number, text after.

    A name without a number is all text before.
    """
    parts = _LAST_NUMBER.fullmatch(name)
    return (parts[1], parts[2], parts[3]) if parts is not None else (name, "", "")


def layer_of(prefix: str) -> tuple[str, int] | None:
    """Return the path of the list of layers that has `prefix`, and the number of the layer.

    The outermost number counts: `model.layers.3.mlp.experts.5.` is layer 3 of `model.layers.`.
    None if there is no number.
    """
    number = _NUMBER.search(prefix)
    return (prefix[: number.start()], int(number[0])) if number else None


def summarize_names(names: Iterable[str]) -> str:
    """List names in one line, as a pattern and a count for those that differ in numbers only."""
    return summarize_kinds(Counter(map(pattern_of, names)))


def summarize_kinds(counts: Counter[str]) -> str:
    """List patterns of names in one line, each with its count; if there are many, only some."""
    shown = [
        f"{quoted(kind)} ({count:,})"
        for kind, count in sorted(
            counts.items(), key=lambda kind: (-kind[1], natural_key(kind[0]))
        )[:MAX_SHOWN_KINDS]
    ]
    rest = len(counts) - len(shown)
    return ", ".join([*shown, *([f"{rest} more kinds"] if rest else [])])
