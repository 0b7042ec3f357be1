"""What config.json says of quantized weights, and which matrices are not quantized."""

import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any

from streamconv.catalog.companions import is_companion
from streamconv.catalog.encodings import EncodingRow, unquantized_names
from streamconv.catalog.families import Family
from streamconv.checkpoint.casting import FLOATS, protected_kind
from streamconv.checkpoint.tensor_names import natural_key
from streamconv.checkpoint.types import TensorInfo
from streamconv.quantization.stems import WEIGHT

SECTION = "quantization_config"
"""The key of config.json that describes quantized weights."""
_HEAD = "lm_head"
"""The head of most models. It is named even if no tensor holds it, because it may be tied."""
_EXPERTS = ".experts."


def unquantized_kind(name: str, family: Family | None = None) -> str | None:
    """Return the kind of matrices that are not quantized which a hub name has, or None."""
    return protected_kind(name, family) or next(
        (kind for kind, found in _patterns().items() if found.fullmatch(name)), None
    )


@functools.cache
def _patterns() -> Mapping[str, re.Pattern[str]]:
    return {
        kind: re.compile("|".join(".*".join(map(re.escape, p.split("*"))) for p in globs), re.S)
        for kind, globs in unquantized_names().items()
    }


def quantized_section(row: EncodingRow, tensors: Iterable[TensorInfo]) -> dict[str, Any]:
    """Return the quantization_config of a checkpoint that holds `tensors`, by their names there."""
    return {**row.config, row.ignored: _unquantized_modules(row, tensors)}


def _unquantized_modules(row: EncodingRow, tensors: Iterable[TensorInfo]) -> list[str]:
    """Return the modules with a matrix that is not quantized, in natural order.

    Experts that are not quantized are one module, and all that is in it.
    """
    names = {_HEAD}
    for info in tensors:
        if info.dtype in FLOATS and len(info.shape) > 1 and not is_companion(info.name):
            before, experts, _ = info.name.rpartition(_EXPERTS)
            if experts:
                module = before + experts.rstrip(".")
                names.add(module)
                names |= {row.inside.format(re.escape(module))} if row.inside else set()
            elif info.name.endswith(f".{WEIGHT}"):
                names.add(info.name.removesuffix(f".{WEIGHT}"))
    return sorted(names, key=natural_key)
