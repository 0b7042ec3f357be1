"""The layouts and families that a run knows, as a value: the shipped ones and a user's own.

Whoever reads the options of a user makes a catalog of them and passes it on, so that two runs in
one process can know different families.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from streamconv.catalog.families import Family, read_family
from streamconv.catalog.layouts import (
    REQUIRED,
    Layout,
    Naming,
    WeightKind,
    find_layout,
    read_layout,
    read_naming,
    read_weight_kind,
)
from streamconv.catalog.name_lookup import NameMatch, build_name_lookup
from streamconv.catalog.toml_tables import Rows, read_table, read_user_tables
from streamconv.errors import UsageError

Entry = TypeVar("Entry")


@dataclass(frozen=True, eq=False)
class Catalog:
    """What is known of layouts and families. A catalog is equal to itself alone."""

    weight_kinds: Mapping[str, WeightKind]
    namings: Mapping[str, Naming]
    layouts: Mapping[str, Layout]
    families: Mapping[str, Family]
    """Those of the user come first, so that they win where two have one model type."""
    _lookups: dict[Naming | None, Mapping[str, tuple[NameMatch, ...]]] = field(
        default_factory=dict, init=False, repr=False
    )

    @property
    def default_naming(self) -> Naming:
        """The naming to use if nothing shows another one."""
        return next(iter(self.namings.values()))

    @functools.cached_property
    def required_weight_pairs(self) -> tuple[tuple[str, str], ...]:
        """The weights of gate_up and down of which a stack has to have one pair."""
        suffixes = [kind.suffix for kind in self.weight_kinds.values() if kind.body]
        return tuple((REQUIRED[0] + suffix, REQUIRED[1] + suffix) for suffix in suffixes)

    def names_to_weights(self, naming: Naming | None = None) -> Mapping[str, tuple[NameMatch, ...]]:
        """Return what names below a module's prefix can mean, `*` being the expert's number.

        `naming` is the only one that is considered; without it, all that are auto-detected are.
        """
        if naming not in self._lookups:
            auto_detected = [known for known in self.namings.values() if known.auto_detect]
            self._lookups[naming] = build_name_lookup(
                self.layouts.values(), auto_detected if naming is None else [naming]
            )
        return self._lookups[naming]

    def find_layout(self, name: str) -> Layout:
        """Return the layout called `name`. Raises UsageError that lists the layouts."""
        return find_layout(self.layouts, name)

    def find_family(self, model_type: object) -> Family | None:
        """Return the family that has this `model_type` of config.json, or None."""
        return next((f for f in self.families.values() if model_type in f.model_types), None)


@functools.cache
def default_catalog() -> Catalog:
    """Return the catalog that is shipped."""
    return _build(lambda _: {}, None)


def load_catalog(path: str | PathLike[str] | None) -> Catalog:
    """Return the shipped catalog, or one that a user's file of tables is added to.

    The file may have the tables `namings`, `layouts` and `families`; a row that has the name of a
    shipped one replaces it.

    Args:
        path: The file of `--family`, or None for the shipped catalog.

    Raises:
        UsageError: The file cannot be read, or a row of it is wrong.
    """
    if path is None:
        return default_catalog()
    return _build(read_user_tables(Path(path)).__getitem__, Path(path))


def _build(added: Callable[[str], Rows], path: Path | None) -> Catalog:
    """Build a catalog of the shipped tables and of those `added` from the file at `path`."""
    shipped = read_table("layouts.toml")
    kinds = {name: read_weight_kind(row) for name, row in shipped["weights"].items()}
    namings = {
        name: read_naming(name, row)
        for name, row in {**shipped["namings"], **added("namings")}.items()
    }
    layouts = {
        name: read_layout(name, row, kinds.values())
        for name, row in {**shipped["layouts"], **added("layouts")}.items()
    }
    families = {
        name: _read_added_family(path, name, row, layouts, namings)
        for name, row in added("families").items()
    }
    for name, row in read_table("families.toml").items():
        if name not in families:
            families[name] = read_family(name, row, layouts, namings)
    return Catalog(
        MappingProxyType(kinds),
        MappingProxyType(namings),
        MappingProxyType(layouts),
        MappingProxyType(families),
    )


def _read_added_family(
    path: Path | None,
    name: str,
    row: Mapping[str, Any],
    layouts: Mapping[str, Layout],
    namings: Mapping[str, Naming],
) -> Family:
    """Read a user's row. Raises UsageError that names it if it is not one of a family."""
    try:
        return read_family(name, row, layouts, namings)
    except KeyError as error:
        raise UsageError(
            f"cannot read the family {name!r} of {path}: {error} is missing or not known",
            "give a family model_types, stacks, and a form with its layouts",
        ) from None
    except (TypeError, AttributeError, ValueError, StopIteration):
        raise UsageError(
            f"cannot read the family {name!r} of {path}: a field is not what it has to be",
            "compare it with the rows of families.toml",
        ) from None
