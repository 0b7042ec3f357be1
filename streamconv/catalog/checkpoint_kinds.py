"""Kinds of checkpoints, and the signs that show them: rows of `data/checkpoint_kinds.toml`."""

import functools
from dataclasses import dataclass

from streamconv.catalog.toml_tables import read_table


@dataclass(frozen=True, slots=True)
class CheckpointKind:
    """A kind of checkpoint; the comment of the table explains the fields."""

    name: str
    says: str
    way: str = ""
    files: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    config: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()


_SIGNS = ("files", "parts", "names", "config", "architectures")


@functools.cache
def checkpoint_kinds() -> tuple[CheckpointKind, ...]:
    """Return every kind."""
    return tuple(
        CheckpointKind(
            name,
            row["says"],
            row.get("way", ""),
            *(tuple(row.get(key, ())) for key in _SIGNS),
        )
        for name, row in read_table("checkpoint_kinds.toml").items()
    )
