"""Which tensors are cast or dequantized, and from what.

A cast happens on reading: a checkpoint under a casting is the same checkpoint with other dtypes,
and everything else is planned as if its tensors had been stored so. Casts therefore combine
with any rearrangement, and bytes, shards and memory follow. The names that are protected from
casts are rows of `data/casts.toml`.
"""

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from streamconv.catalog.families import Family
from streamconv.catalog.routers import router_biases, router_weights
from streamconv.catalog.toml_tables import read_table
from streamconv.checkpoint.types import TensorInfo
from streamconv.errors import BadCheckpoint, UsageError

DTYPES = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}
"""Dtypes that a cast can have as its result, by the values of `--dtype`."""
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
"""Dtypes that `--dtype` casts. Narrower floats mean something only together with their scales."""

PORTION_BYTES = 2**20
"""Bytes read at once of a tensor that becomes narrower, which needs a buffer of its own."""
SCRATCH_BYTES = 3 * 2**20
"""Bytes that a worker needs in addition if anything is cast: tiles on their way, and tables."""


@dataclass(frozen=True, slots=True)
class Casting:
    """The casts that were asked for; by default none."""

    dtype: str | None = None
    """Dtype of the result for floating tensors, in the words of the format, such as `BF16`."""
    dequantize: str | None = None
    """Dtype of the result for quantized weights."""
    everything: bool = False
    """True if routers, their biases and norms are cast as well."""
    only: tuple[str, ...] = ()
    """Names of weights, with * for any text, or of number formats: others stay quantized."""
    skip: tuple[str, ...] = ()
    """Names of weights or number formats that stay quantized."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields of a manifest."""
        fields = {"dtype": self.dtype, "dequantize": self.dequantize, "all": self.everything}
        chosen = {"only": list(self.only), "except": list(self.skip)}
        return {**fields, **{key: names for key, names in chosen.items() if names}}

    @classmethod
    def from_json(cls, fields: Any, source: str) -> "Casting":
        """Read what `to_json` returned.

        Args:
            fields: A JSON value, which may be anything; None means no casts.
            source: The file that it is from, for messages.

        Raises:
            BadCheckpoint: It is not a casting, or has a dtype that this release does not know.
        """
        if fields is None:
            return AS_STORED
        if not isinstance(fields, dict):
            fields = {}
        dtype, dequantize, everything = (fields.get(key) for key in ("dtype", "dequantize", "all"))
        only, skip = (fields.get(key, []) for key in ("only", "except"))
        known = {None, *DTYPES.values()}
        if (
            type(everything) is not bool
            or not all(isinstance(n, str | None) and n in known for n in (dtype, dequantize))
            or not (_are_names(only) and _are_names(skip))
        ):
            raise BadCheckpoint(f"{source}: its casting is not one that this release knows")
        return cls(dtype, dequantize, everything, tuple(only), tuple(skip))


AS_STORED = Casting()
"""Nothing is cast."""


def parse_casting(
    dtype: str | None,
    dequantize: str | None,
    everything: bool,
    only: Sequence[str] | str = (),
    skip: Sequence[str] | str = (),
) -> Casting:
    """Return the casting for the values of options.

    Args:
        dtype: The value of `--dtype`.
        dequantize: The value of `--dequantize`.
        everything: True for `--cast-all`.
        only: The values of `--only`.
        skip: The values of `--except`.

    Raises:
        UsageError: A dtype is unknown, or an option that extends another one is given alone.
    """
    only, skip = ((names,) if isinstance(names, str) else tuple(names) for names in (only, skip))
    if (only or skip) and dequantize is None:
        raise UsageError(
            f"cannot apply {'--only' if only else '--except'}: it chooses what --dequantize "
            "applies to, and there is no --dequantize",
            "add --dequantize, or leave it out",
        )
    if everything and dtype is None:
        raise UsageError(
            "cannot apply --cast-all: it extends --dtype to routers and norms, and there is no "
            "--dtype",
            "add --dtype, or leave out --cast-all",
        )
    return Casting(_parse_dtype(dtype), _parse_dtype(dequantize), everything, only, skip)


def _are_names(names: Any) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) for name in names)


def _parse_dtype(name: str | None) -> str | None:
    if name is None or name in DTYPES:
        return name and DTYPES[name]
    raise UsageError(f"cannot cast to {name!r}: no such dtype", f"choose from {', '.join(DTYPES)}")


def buffer_bytes(inputs: Iterable[TensorInfo], concurrent_inputs: int) -> int:
    """Return the bytes that one worker needs to cast any of `inputs`, in addition to its output.

    `concurrent_inputs` are read at a time. What belongs to the codes of each is in memory as it is
    stored. Codes that are spread over their tensor are in memory for one matrix.
    """
    most = 0
    for info in inputs:
        if info.cast is not None:
            needed = SCRATCH_BYTES + PORTION_BYTES
            decoding = info.cast.decoding
            if decoding is not None:
                needed += concurrent_inputs * decoding.companion_bytes + decoding.scratch_bytes
            most = max(most, needed)
    return most


# --- protected tensors -------------------------------------------------------------------------


def protected_kind(name: str, family: Family | None = None) -> str | None:
    """Return `router`, `norm` or `scale` if that protects the tensor from casts, else None.

    Routers are known by the table of routers, and by the patterns of `casts.toml`. Every name
    counts that the tensor has in a form of `family`: a router's bias is called `moe.router_bias`
    in one and `mlp.gate.e_score_correction_bias` in another.
    """
    names = family.names_in_forms(name) if family else {name}
    if any(form_name.endswith(_router_ends()) for form_name in names):
        return "router"
    kinds = _protected().items()
    return next((kind for kind, found in kinds if any(map(found.fullmatch, names))), None)


def protects_always(kind: str) -> bool:
    """Return True if tensors of a kind are not cast by `--cast-all` either."""
    return kind in _table()["never"]


@functools.cache
def _router_ends() -> tuple[str, ...]:
    """Return the ends of the names of routers' tensors, from the table of routers."""
    return tuple(f".{name}" for name in (*router_weights(), *router_biases()))


@functools.cache
def _protected() -> Mapping[str, re.Pattern[str]]:
    """Return the expression that finds the names of each kind; those that are never cast first."""
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
