"""The known layouts and families: the shipped ones, and those of a user's file.

A catalog is a value. The functions that take a user's options build it once and pass it on, so
two runs in one process can know different families.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, fields
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from streamconv.catalog.families import FORMS, SAME, Family, read_family
from streamconv.catalog.family_table import FamilyTable
from streamconv.catalog.frozen_map import FrozenMap
from streamconv.catalog.layouts import (
    Layout,
    Naming,
    find_layout,
    no_such_name,
    read_layout,
    read_naming,
)
from streamconv.catalog.name_lookup import NameMatch, Spelling, build_name_lookup
from streamconv.catalog.toml_tables import Rows, read_row_texts, read_table, read_user_tables
from streamconv.catalog.weight_kinds import (
    MATRICES,
    WeightKind,
    check_weight_rows,
    read_weight_kinds,
)
from streamconv.errors import UsageError

Entry = TypeVar("Entry")


@dataclass(frozen=True, eq=False)
class Catalog:
    """All known layouts and families, by name. A catalog is equal only to itself."""

    weight_kinds: tuple[WeightKind, ...]
    """In the order in which the shapes of one name are tried."""
    namings: Mapping[str, Naming]
    layouts: Mapping[str, Layout]
    spellings: tuple[Spelling, ...]
    """Other names of the tensors of layouts."""
    families: FamilyTable
    """The user's families come first, so that they win over shipped ones of the same model type."""

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields, for pickle and copies: what is made of them is made again."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def __repr__(self) -> str:
        return f"<Catalog of {len(self.families)} families and {len(self.layouts)} layouts>"

    @property
    def default_naming(self) -> Naming:
        """The naming of experts if neither tensor names, record nor family show one."""
        return next(iter(self.namings.values()))

    @functools.cached_property
    def _lookups(self) -> dict[Naming | None, Mapping[str, tuple[NameMatch, ...]]]:
        return {}

    @functools.cached_property
    def required_weight_pairs(self) -> tuple[tuple[str, str], ...]:
        """Pairs of weights of gate_up and down. A stack needs at least one of these pairs."""
        keys = [kind.key for kind in self.weight_kinds if kind.required]
        return tuple((MATRICES[0] + key, MATRICES[1] + key) for key in keys)

    def names_to_weights(self, naming: Naming | None = None) -> Mapping[str, tuple[NameMatch, ...]]:
        """Return the meanings of names below a module's prefix, with `*` for the expert's number.

        Only `naming` is considered; without it, every naming that is auto-detected.
        """
        if naming not in self._lookups:
            auto_detected = [known for known in self.namings.values() if known.auto_detect]
            self._lookups[naming] = build_name_lookup(
                self.layouts.values(),
                auto_detected if naming is None else [naming],
                self.weight_kinds,
                self.spellings,
            )
        return self._lookups[naming]

    def find_layout(self, name: str) -> Layout:
        """Return the layout called `name`. Raises UsageError that lists forms and layouts."""
        self.check_name(name)
        return find_layout(self.layouts, name)

    def check_name(self, name: str, *more: str) -> None:
        """Raise UsageError unless `name` is a form, a layout, or one of `more`."""
        known = (*FORMS, *more, *self.layouts)
        if name not in known:
            raise no_such_name("form or layout", name, known)

    def find_family(self, model_type: object) -> Family | None:
        """Return the family that has this `model_type` of config.json, or None."""
        return self.families.with_model_type(model_type)


@functools.cache
def default_catalog() -> Catalog:
    """Return the shipped catalog."""
    return _build({})


def load_catalog(path: str | PathLike[str] | None) -> Catalog:
    """Return the shipped catalog, with the tables of a user's file added.

    The file may have the tables `namings`, `weights`, `layouts` and `families`; a row that has the
    name of a shipped one replaces it.

    Args:
        path: The file of `--family`, or None for the shipped catalog.

    Raises:
        UsageError: The file cannot be read, or a row of it is wrong.
    """
    if path is None:
        return default_catalog()
    return _build(read_user_tables(Path(path)))


def _build(added: Mapping[str, Rows]) -> Catalog:
    """Build a catalog of the shipped tables, with the rows `added` by a user's file."""
    _check_free(added.get("layouts", {}))
    shipped = read_table("layouts.toml")
    weights = {**shipped["weights"], **added.get("weights", {})}
    check_weight_rows(weights)
    kinds = tuple(
        kind
        for name, row in weights.items()
        for kind in read_weight_kinds(name, row, shipped["shapes"])
    )
    namings = {
        name: read_naming(name, row)
        for name, row in {**shipped["namings"], **added.get("namings", {})}.items()
    }
    layouts = {
        name: read_layout(name, row, kinds)
        for name, row in {**shipped["layouts"], **added.get("layouts", {})}.items()
    }
    read = functools.partial(read_family, layouts=layouts, namings=namings)
    families = {name: read(name, row) for name, row in added.get("families", {}).items()}
    return Catalog(
        kinds,
        FrozenMap(namings),
        FrozenMap(layouts),
        tuple(Spelling(name, tuple(names)) for name, names in shipped["spellings"].items()),
        FamilyTable(families, read_row_texts("families.toml"), read),
    )


def _check_free(layouts: Rows) -> None:
    """Raise UsageError for a layout whose name already means something else after `--to`."""
    for name in layouts:
        if name in (*FORMS, SAME):
            raise UsageError(
                f"cannot add the layout {name!r}: --to {name} already means something else",
                "give it another name",
            )
