"""Number formats: rows of `data/quantization.toml`, whose comment explains the fields."""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from streamconv.catalog.frozen_map import FrozenMap
from streamconv.catalog.toml_tables import read_table

UNDESCRIBED = "a number format that no table describes"
"""How a message calls a format without a row."""

_AXIS = re.compile(r"(?P<packed>[0-9]+)?(?P<axis>[oi])(/(?P<per>[0-9]+|[a-z]))?")

Statement = Mapping[str, tuple[Any, ...]]
"""By key of a configuration, the values that a format allows; "" for a missing one."""


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis of a tensor, in terms of one axis of the matrix."""

    name: str
    """`o`, `i`, or empty for a single element."""
    packed: int = 1
    """Codes in one element."""
    per: int | str = 1
    """Positions on the axis for one number; a letter if it is the configuration's."""


@dataclass(frozen=True, slots=True)
class Part:
    """A tensor of a stem: the codes, or one that belongs to them, such as the scales."""

    role: str
    words: tuple[str, ...]
    """The words that can end its name, in place of `weight`."""
    dtypes: frozenset[str]
    axes: tuple[tuple[Axis, ...], ...] = ()
    """The choices of axes that it can have."""
    values: str = "float"
    bits: int | None = None
    """Width of a code, if it is not that of the dtype."""
    offset: int = 0
    order: tuple[int, ...] = ()
    joined: int = 1
    """Dimensions at the end that are one axis."""
    use: str = ""
    required: bool = False


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """A number format that is decoded."""

    name: str
    says: str
    config: tuple[Statement, ...]
    codes: Part
    decoded: str
    """Axes of the rows and columns of what is decoded; empty for those of the codes."""
    loads: frozenset[str]
    """Layouts in which transformers loads experts that are stored so."""
    has_to_be_announced: bool
    """True if tensors alone do not tell it from another format."""
    others: tuple[Part, ...]
    """Scale first; then, if there are any, second scale, zero, index and shape."""

    def part(self, role: str) -> Part | None:
        """Return the part that has a role, or None."""
        return next((part for part in self.others if part.role == role), None)

    @property
    def words(self) -> frozenset[str]:
        """The words of its tensors."""
        return frozenset(word for part in (self.codes, *self.others) for word in part.words)


@dataclass(frozen=True, slots=True)
class NamedFormat:
    """A number format that is known by name only, and passed through."""

    name: str
    says: str
    config: tuple[Statement, ...]
    words: frozenset[str]
    """Words of tensors that only this format has."""
    loads: frozenset[str] = frozenset()
    """Always empty: no layout is known in which transformers loads such experts."""


@functools.cache
def number_formats() -> Mapping[str, NumberFormat]:
    """Return the formats that can be decoded, by name."""
    return MappingProxyType({n: _number_format(n, row) for n, row in _table()["formats"].items()})


@functools.cache
def named_formats() -> Mapping[str, NamedFormat]:
    """Return the formats that are known by name only, by name."""
    return MappingProxyType(
        {
            name: NamedFormat(name, row["says"], _statements(row), frozenset(row["words"]))
            for name, row in _table()["named"].items()
        }
    )


@functools.cache
def part_words() -> frozenset[str]:
    """Return the words of tensors that a weight has only if it is quantized, except its own."""
    decoded = (row.words for row in number_formats().values())
    named = (row.words for row in named_formats().values())
    return frozenset(word for words in (*decoded, *named) for word in words) - {"weight"}


@functools.cache
def activation_words() -> frozenset[str]:
    """Return the words of tensors that are for the activations of a quantized weight."""
    return frozenset(_table()["activations"]["words"])


@functools.cache
def cache_words() -> frozenset[str]:
    """Return the last words of the names of scales for a KV cache."""
    return frozenset(_table()["cache"]["words"])


@functools.cache
def _table() -> dict[str, Any]:
    return read_table("quantization.toml")


def _number_format(name: str, row: Mapping[str, Any]) -> NumberFormat:
    roles = ("scale", "second", "zero", "index", "shape")
    return NumberFormat(
        name=name,
        says=row["says"],
        config=_statements(row),
        codes=_part("codes", row["codes"]),
        decoded=row.get("decoded", "").replace(" ", ""),
        loads=frozenset(row.get("loads", ())),
        has_to_be_announced=row.get("announced", False),
        others=tuple(_part(role, row[role]) for role in roles if role in row),
    )


def _statements(row: Mapping[str, Any]) -> tuple[Statement, ...]:
    return tuple(
        FrozenMap({key: tuple(v) if isinstance(v, list) else (v,) for key, v in s.items()})
        for s in row["config"]
    )


def _part(role: str, fields: Mapping[str, Any]) -> Part:
    return Part(
        role=role,
        words=tuple(fields["words"]),
        dtypes=frozenset(fields["dtypes"]),
        axes=tuple(tuple(map(_axis, text.split())) for text in fields.get("axes", ())),
        values=fields.get("values", "int" if role == "zero" else "float"),
        bits=fields.get("bits"),
        offset=fields.get("offset", 0),
        order=tuple(fields.get("order", ())),
        joined=fields.get("joined", 1),
        use=fields.get("use", ""),
        required=fields.get("required", role in ("scale", "second")),
    )


def _axis(text: str) -> Axis:
    match = _AXIS.fullmatch(text)
    if match is None:
        return Axis("")
    per = match["per"] or "1"
    return Axis(match["axis"], int(match["packed"] or 1), int(per) if per.isdigit() else per)
