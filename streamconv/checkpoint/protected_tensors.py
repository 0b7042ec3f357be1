"""Which tensors are protected from casts, by their names: rows of `data/casts.toml`."""

import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any

from streamconv.catalog.families import Family
from streamconv.catalog.routers import router_biases, router_weights
from streamconv.catalog.toml_tables import read_table

KEPT_IN_FP32 = "fp32 weight"
"""The kind of other tensors that transformers keeps in fp32 in a model of another dtype."""


def protected_kind(name: str, family: Family | None = None) -> str | None:
    """Return the kind of a tensor that is protected from casts, or None if it is cast.

    Kinds are `router`, `norm`, `scale` and KEPT_IN_FP32.

    Routers are found by the table of routers and by the row of `family`; if the row names none,
    also by the patterns of `casts.toml`. A tensor is looked up under each of its names in the forms
    of `family`: a router's bias is `moe.router_bias` in one and `mlp.gate.e_score_correction_bias`
    in another.
    """
    names = family.names_in_forms(name) if family else frozenset((name,))
    if any(form_name.endswith(_router_ends(family)) for form_name in names):
        return "router"
    fitting = (kind for kind, found in _protected().items() if any(map(found.fullmatch, names)))
    has_routers = family is not None and bool(family.routers)
    kind = next((kind for kind in fitting if not (has_routers and kind == "router")), None)
    return kind or (KEPT_IN_FP32 if _is_kept_in_fp32(names, family) else None)


def _is_kept_in_fp32(names: Iterable[str], family: Family | None) -> bool:
    """Return True if transformers keeps a tensor in fp32, by one of its names."""
    parts = [f".{part}." for part in family.fp32] if family else []
    return any(part in f".{name}." for name in names for part in parts)


def protects_always(kind: str) -> bool:
    """Return True if not even `--cast-all` casts tensors of a kind."""
    return kind in _table()["never"]


def _router_ends(family: Family | None) -> tuple[str, ...]:
    """Return the endings of the names of routers' tensors, by the table and the family's row."""
    own = family.routers if family else ()
    return _general_router_ends() + tuple(f".{name}" for name in own)


@functools.cache
def _general_router_ends() -> tuple[str, ...]:
    """Return the endings of the names of routers' tensors, by the table of routers."""
    return tuple(f".{name}" for name in (*router_weights(), *router_biases()))


@functools.cache
def _protected() -> Mapping[str, re.Pattern[str]]:
    """Return a regular expression for each kind; the kinds that are never cast come first."""
    return {
        kind: re.compile("|".join(map(_expression, globs)), re.S)
        for section in ("never", "keep")
        for kind, globs in _table()[section].items()
    }


def _expression(glob: str) -> str:
    return ".*".join(map(re.escape, glob.split("*")))


@functools.cache
def _table() -> dict[str, Any]:
    return read_table("casts.toml")
