"""The casts that a user asks for: to another dtype, from or to a number format.

A cast happens on reading: a checkpoint under a casting is the same checkpoint with other dtypes,
and everything else is planned as if its tensors had been stored so. Casts therefore combine with
any rearrangement, and bytes, shards and memory follow.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from streamconv.catalog.encodings import encoding_row
from streamconv.checkpoint.types import Checkpoint
from streamconv.errors import BadCheckpoint, UsageError, quoted

DTYPES = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}
"""Dtypes that a cast can have as its result, by the values of `--dtype`."""
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
"""Dtypes that `--dtype` casts. Narrower floats mean something only together with their scales."""


@dataclass(frozen=True, slots=True)
class Casting:
    """The casts that were asked for; by default none."""

    dtype: str | None = None
    """Dtype of the result for floating-point tensors, as safetensors names it, such as `BF16`."""
    dequantize: str | None = None
    """Dtype of the result for quantized weights."""
    everything: bool = False
    """True if routers, norms and what transformers keeps in fp32 are cast as well."""
    only: tuple[str, ...] = ()
    """Weights or number formats that the casts are limited to, by name with * for any text."""
    skip: tuple[str, ...] = ()
    """Weights or number formats that stay as they are, by name with * for any text."""
    quantize: str | None = None
    """Name of the encoding that weights are quantized to."""
    scale: str | None = None
    """The value of `--scale`; None for the encoding's default."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields of a manifest."""
        fields = {"dtype": self.dtype, "dequantize": self.dequantize, "all": self.everything}
        chosen: dict[str, Any] = {"only": list(self.only), "except": list(self.skip)}
        chosen |= {"quantize": self.quantize, "scale": self.scale}
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
        quantize, scale = (fields.get(key) for key in ("quantize", "scale"))
        known = {None, *DTYPES.values()}
        if (
            type(everything) is not bool
            or not _is_encoding(quantize, scale)
            or not all(isinstance(n, str | None) and n in known for n in (dtype, dequantize))
            or not (_are_names(only) and _are_names(skip))
        ):
            raise BadCheckpoint(f"{source}: its casting is not one that this release knows")
        return cls(dtype, dequantize, everything, tuple(only), tuple(skip), quantize, scale)


AS_STORED = Casting()
"""Nothing is cast."""


def may_be_cast(checkpoint: Checkpoint, casting: Casting) -> bool:
    """Return True if tensors of a checkpoint may be cast on reading, asked for or not."""
    return casting != AS_STORED or checkpoint.has_dequantized_template


def parse_casting(
    dtype: str | None,
    dequantize: str | None,
    everything: bool,
    only: Sequence[str] | str = (),
    skip: Sequence[str] | str = (),
    *,
    quantize: str | None = None,
    scale: str | None = None,
) -> Casting:
    """Return the casting for the values of options.

    Args:
        dtype: The value of `--dtype`.
        dequantize: The value of `--dequantize`.
        everything: True for `--cast-all`.
        only: The values of `--only`.
        skip: The values of `--except`.
        quantize: The value of `--quantize`.
        scale: The value of `--scale`.

    Raises:
        UsageError: A dtype or format is unknown, or an option that extends another one is given
            alone.
    """
    only, skip = ((names,) if isinstance(names, str) else tuple(names) for names in (only, skip))
    chooses = "--only" if only else "--except"
    if (only or skip) and dequantize is None and quantize is None:
        raise UsageError(
            f"cannot apply {chooses}: it chooses what --dequantize or --quantize applies to, and "
            "there is neither",
            "add --dequantize or --quantize, or leave it out",
        )
    if (only or skip) and dequantize is not None and quantize is not None:
        raise UsageError(
            f"cannot apply {chooses} to both --dequantize and --quantize: it chooses the weights "
            "of one of them",
            "dequantize first, and quantize the result",
        )
    if scale is not None and quantize is None:
        raise UsageError(
            f"cannot give the scales {quoted(repr(scale))}: they are those of --quantize, and "
            "there is none",
            "add --quantize, or leave out --scale",
        )
    if quantize is not None:
        encoding_row(quantize, scale)
    if everything and dtype is None:
        raise UsageError(
            "cannot apply --cast-all: it extends --dtype to routers and norms, and there is no "
            "--dtype",
            "add --dtype, or leave out --cast-all",
        )
    dtypes = _parse_dtype(dtype), _parse_dtype(dequantize)
    return Casting(*dtypes, everything, only, skip, quantize, scale)


def _is_encoding(quantize: Any, scale: Any) -> bool:
    """Return True if these are the name of an encoding and one of its scales, or both None."""
    if not isinstance(quantize, str | None) or not isinstance(scale, str | None):
        return False
    if quantize is None:
        return scale is None
    try:
        encoding_row(quantize, scale)
    except UsageError:
        return False
    return True


def _are_names(names: Any) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) for name in names)


def _parse_dtype(name: str | None) -> str | None:
    if name is None or name in DTYPES:
        return name and DTYPES[name]
    raise UsageError(
        f"cannot cast to {quoted(repr(name))}: no such dtype", f"choose from {', '.join(DTYPES)}"
    )
