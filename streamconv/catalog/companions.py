"""Companions of a weight: biases, scales and packed elements; rows of `data/companions.toml`.

A weight and its companions share a stem, which is the beginning of their names. `X.weight` has the
companion `X.weight_scale`, `experts.down_proj` has `experts.down_proj_scale`: the stems are `X` and
`experts.down_proj`.
"""

import functools
from collections.abc import Mapping
from types import MappingProxyType

from streamconv.catalog.toml_tables import read_table

_WEIGHT = "weight"
_SEPARATORS = (".", "_")


@functools.cache
def companion_suffixes() -> Mapping[str, str]:
    """Return the suffix of each companion, by the word that replaces `weight` in its name.

    For example, `_scale` by `weight_scale`: next to `X.weight` it is called `X.weight_scale`, and
    next to a weight called `X` it is `X_scale`.
    """
    return MappingProxyType(read_table("companions.toml")["companions"])


def stem_of(name: str) -> str:
    """Return the beginning that a tensor's name shares with its weight and its companions."""
    for ending in _endings().get(_last_word(name), ()):
        if name.endswith(ending):
            stem = name[: -len(ending)]
            if stem and not stem.endswith("."):
                return stem
    return name


def split_name(name: str) -> tuple[str, str]:
    """Return the stem of a tensor's name, and the word for the rest of the name.

    For example, `a` and `weight_scale` for `a.weight_scale`, but also `down_proj` and
    `weight_scale` for `down_proj_scale`. The word for a weight is `weight`, even if its name is
    just the stem.
    """
    stem = stem_of(name)
    return stem, _WEIGHT if stem == name else _words()[name[len(stem) :]]


def is_companion(name: str) -> bool:
    """Return True if a tensor of this name is a companion, which means nothing without a weight."""
    return stem_of(name) != name and not name.endswith(tuple(s + _WEIGHT for s in _SEPARATORS))


def possible_weights(companion: str) -> tuple[str, ...]:
    """Return the names that the weight of a companion can have."""
    stem = stem_of(companion)
    return stem, *(stem + separator + _WEIGHT for separator in _SEPARATORS)


def endings_of(weight: str) -> tuple[str, tuple[str, ...]]:
    """Return the stem of a weight's name, and the endings of its name and its companions' names.

    The endings of any two weights are in the same order, no matter if the weights are called
    `X.weight` or `X`.
    """
    for separator in _SEPARATORS:
        if weight.endswith(separator + _WEIGHT):
            words = (_WEIGHT, *companion_suffixes())
            return weight[: -len(_WEIGHT) - 1], tuple(separator + word for word in words)
    return weight, ("", *companion_suffixes().values())


@functools.cache
def _words() -> Mapping[str, str]:
    """Return the word of each ending. A suffix comes before a word with a separator."""
    words = (_WEIGHT, *companion_suffixes())
    parts = {separator + word: word for separator in _SEPARATORS for word in words}
    return {**parts, **{suffix: word for word, suffix in companion_suffixes().items()}}


@functools.cache
def _endings() -> Mapping[str, tuple[str, ...]]:
    """Return the endings that follow a stem, by their last word; the longest ones come first.

    A checkpoint has a hundred thousand names, and each is looked up several times: a regular
    expression of all endings takes ten times as long.
    """
    words = (_WEIGHT, *companion_suffixes())
    endings = {separator + word for separator in _SEPARATORS for word in words}
    endings |= {*companion_suffixes().values()}
    found: dict[str, list[str]] = {}
    for ending in sorted(endings, key=lambda ending: (-len(ending), ending)):
        found.setdefault(_last_word(ending), []).append(ending)
    return {word: tuple(longest_first) for word, longest_first in found.items()}


def _last_word(name: str) -> str:
    """Return the last separator of a name, and what follows it."""
    return name[max(name.rfind("."), name.rfind("_")) :]
