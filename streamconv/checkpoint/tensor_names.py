"""What the names of tensors say: their order, their layer, and which of them are alike."""

import re
from collections import Counter
from collections.abc import Iterable

from streamconv.errors import quoted

MAX_SHOWN_KINDS = 8
"""Kinds of names that `summarize_names` lists before it only counts them."""

_DIGITS = re.compile(r"([0-9]{1,18})")
_NUMBER = re.compile(r"(?<![^.])[0-9]{1,18}(?=\.)")


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Return a sort key that puts `experts.10` after `experts.9`."""
    parts: list[str | int] = list(_DIGITS.split(name))
    parts[1::2] = map(int, parts[1::2])
    return parts, name


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
