"""What config.json says about quantized weights, and which matrices are not quantized."""

import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any

from streamconv.catalog.companions import is_companion
from streamconv.catalog.config_keys import config_keys
from streamconv.catalog.encodings import EncodingRow, unquantized_names
from streamconv.catalog.families import Family
from streamconv.catalog.templates import EXPERTS
from streamconv.checkpoint.casting import FLOATS
from streamconv.checkpoint.protected_tensors import protected_kind
from streamconv.checkpoint.stored_dtypes import is_quantized
from streamconv.checkpoint.tensor_names import natural_key
from streamconv.checkpoint.types import TensorInfo
from streamconv.quantization.stems import WEIGHT

SECTION = "quantization_config"
"""The key of config.json that describes quantized weights."""
_HEAD = "lm_head"
"""The head of most models. It is named even if no tensor holds it, because it may be tied."""


def unquantized_kind(name: str, family: Family | None = None) -> str | None:
    """Return why a matrix with this hub name is not quantized: its kind. None if it may be."""
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
    section = dict(row.config)
    modules = exceptions_for(section, _unquantized_modules(tensors))
    return {**section, str(exceptions_key(section)): sorted(modules, key=natural_key)}


def exceptions_key(section: Mapping[str, Any]) -> str | None:
    """Return the key of a description that lists modules which are not quantized.

    None if its method has no such list.
    """
    row = config_keys().exceptions.get(str(section.get("quant_method")))
    if row is None:
        return None
    return next((key for key in row.keys if key in section), row.keys[0])


def with_exceptions(section: Mapping[str, Any], modules: Iterable[str]) -> dict[str, Any] | None:
    """Return a description of quantized weights with these modules added to its exceptions.

    None if its method has no list of exceptions, or something else is in its place.
    """
    key = exceptions_key(section)
    if key is None or not isinstance(listed := section.get(key) or [], list):
        return None
    wanted = exceptions_for(section, modules)
    return {**section, key: [*listed, *(name for name in wanted if name not in listed)]}


def exceptions_for(section: Mapping[str, Any], modules: Iterable[str]) -> list[str]:
    """Return the entries of a list of exceptions for some modules.

    If experts are among them and the method needs it, a pattern for the modules inside is added.
    """
    row = config_keys().exceptions[str(section["quant_method"])]
    return [
        name
        for module in modules
        for name in (
            module,
            *(_inside(module, row.inside) if module.endswith(EXPERTS[:-1]) else ()),
        )
    ]


def dequantized_modules(weights: Iterable[TensorInfo]) -> list[str]:
    """Return the modules of weights that a cast has dequantized, in natural order.

    Experts are one module, unless some of them stay quantized.

    Args:
        weights: The tensors of the output by their names there, with their casts.
    """
    tensors = list(weights)
    coded = {module_of(info.name) for info in tensors if is_quantized(info)}
    names = set()
    for info in tensors:
        if info.cast is not None and info.cast.decoding is not None:
            module = module_of(info.name)
            names.add(info.name.removesuffix(f".{WEIGHT}") if module in coded else module)
    return sorted(names, key=natural_key)


def _inside(module: str, pattern: str) -> list[str]:
    """Return the pattern for the modules inside of one; nothing if the method needs none."""
    return [pattern.format(re.escape(module))] if pattern else []


def module_of(name: str) -> str:
    """Return the module of a matrix by the name of the tensor. Experts are one module."""
    before, experts, _ = name.rpartition(EXPERTS)
    if experts:
        return before + experts.rstrip(".")
    return name.rpartition(".")[0] or name


def _unquantized_modules(tensors: Iterable[TensorInfo]) -> set[str]:
    """Return the modules with a matrix that is not quantized.

    Experts are one module if none of them is quantized. Otherwise, each of their matrices that is
    not quantized is named.
    """
    infos = list(tensors)
    coded = {module_of(info.name) for info in infos if is_quantized(info)}
    names = {_HEAD}
    for info in infos:
        if info.dtype in FLOATS and len(info.shape) > 1 and not is_companion(info.name):
            module = module_of(info.name)
            if EXPERTS in info.name and module not in coded:
                names.add(module)
            elif info.name.endswith(f".{WEIGHT}"):
                names.add(info.name.removesuffix(f".{WEIGHT}"))
    return names
