"""What a description of quantized weights has to say, found out from the tensors that are there.

The code that writes such a description, `quantization/quantized_config.py`, and the `config` of a
row are deliberately not used here. The facts follow from the codes of the encoding. The list of
modules that are not quantized is read as loaders read it: weights with codes must not be in it, all
other matrices have to be, and nothing else may be.
"""

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from streamconv.catalog.companions import is_companion, stem_of
from streamconv.catalog.config_keys import config_keys
from streamconv.catalog.encodings import EncodingRow
from streamconv.catalog.templates import EXPERTS
from streamconv.checkpoint.stored_dtypes import is_quantized
from streamconv.checkpoint.tensor_names import natural_key
from streamconv.checkpoint.types import TensorInfo
from streamconv.errors import quoted
from streamconv.formats.safetensors import DTYPE_BITS

_NUMBERS = {"e4m3": ("float", 8), "e2m1": ("float", 4), "int4": ("int", 4)}
"""The type of a code, and its width in bits."""
_FORMATS = {
    ("e4m3", "weight"): "float-quantized",
    ("int4", "weight_packed"): "pack-quantized",
    ("e2m1", "weight_packed"): "mxfp4-pack-quantized",
}
"""The format's name in compressed-tensors, by the numbers of codes and the word of their tensor."""
_FLOATS = frozenset({"BF16", "F16", "F32", "F64"})
_HEAD = "lm_head"
"""It is listed even without a tensor of its own: loaders make the module, and tie it later."""
_PATTERN = "re:^"
"""The beginning of each pattern in a list."""
_ESCAPED = re.compile(r"\\(.)", re.S)


@dataclass(frozen=True, slots=True)
class Modules:
    """The modules of a checkpoint: those whose weights are quantized, and others."""

    quantized: frozenset[str]
    others: frozenset[str]
    """Those with a matrix that is not quantized."""

    @classmethod
    def of(cls, tensors: Iterable[TensorInfo]) -> "Modules":
        """Return the modules of a checkpoint with these tensors."""
        infos = list(tensors)
        quantized = {stem_of(info.name) for info in infos if is_quantized(info)}
        others = {_HEAD} | {
            stem_of(info.name)
            for info in infos
            if info.dtype in _FLOATS and len(info.shape) > 1 and _is_matrix(info.name)
        }
        return cls(frozenset(quantized), frozenset(others - quantized))

    def fault_of_list(
        self, method: object, listed: list[Any], added: list[Any], wanted: Iterable[str]
    ) -> str | None:
        """Return what is wrong with a list of modules that are not quantized, or None.

        Args:
            method: The `quant_method` of the description.
            listed: The list.
            added: The items of it that are checked: all, or those that the source does not have.
            wanted: The modules that have to be in it.
        """
        row = config_keys().exceptions.get(str(method))
        is_exact = row is not None and row.inside != ""
        all_listed, new = _Listed.of(listed, is_exact), _Listed.of(added, is_exact)
        around = {name for module in self.others for name in _modules_around(module)}
        stray = next((each for each in added if not self._is_justified(each, around)), None)
        if stray is not None:
            return f"it lists {quoted(str(stray))}, which is not an unquantized module"
        missing = next((each for each in sorted(wanted) if each not in all_listed), None)
        if missing is not None:
            return f"it does not list {quoted(missing)}, which is not quantized"
        coded = next((each for each in sorted(self.quantized) if each in new), None)
        return f"it lists {quoted(coded)}, which is quantized" if coded is not None else None

    def _is_justified(self, entry: object, around: Container[str]) -> bool:
        """Return True if an item is a module that is not quantized, or contains one.

        Args:
            entry: An item of a list.
            around: The modules that are not quantized, and those that contain them.
        """
        if not isinstance(entry, str):
            return False
        beginning = _beginning(entry)
        if beginning is None:
            return entry in around
        return any(module.startswith(beginning) for module in self.others)


def _is_matrix(name: str) -> bool:
    return not is_companion(name) and (name.endswith(".weight") or EXPERTS in name)


@dataclass(frozen=True, slots=True)
class _Listed:
    """A list of modules, as a loader reads it.

    A name means the modules inside of it, too, unless the loader compares whole names.
    """

    names: frozenset[str]
    beginnings: tuple[str, ...]
    """For each pattern, how the names of the modules begin that it matches."""
    is_exact: bool

    @classmethod
    def of(cls, listed: Iterable[object], is_exact: bool) -> "_Listed":
        names = [each for each in listed if isinstance(each, str)]
        found = (beginning for each in names if (beginning := _beginning(each)) is not None)
        return cls(frozenset(names), tuple(found), is_exact)

    def __contains__(self, module: str) -> bool:
        around = (module,) if self.is_exact else _modules_around(module)
        return any(each in self.names for each in around) or module.startswith(self.beginnings)


def _modules_around(module: str) -> Iterator[str]:
    """Yield a module, and all that it is inside of."""
    while module:
        yield module
        module = module.rpartition(".")[0]


def _beginning(entry: str) -> str | None:
    """Return how the names of the modules begin that a pattern matches; None for any other entry.

    Only the kind of pattern that conversions write is known. Others are never run: a hostile one
    could take hours.
    """
    text = _ESCAPED.sub(r"\1", entry.removeprefix(_PATTERN))
    return text if entry == _PATTERN + re.escape(text) else None


def list_key(section: Mapping[str, Any]) -> str | None:
    """Return the key of a description's list; None if its method has none."""
    row = config_keys().exceptions.get(str(section.get("quant_method")))
    if row is None:
        return None
    return next((key for key in row.keys if key in section), row.keys[0])


@dataclass(frozen=True, slots=True)
class Description:
    """What the description of a checkpoint has to say that was made with `--quantize`."""

    facts: Mapping[str, Any]
    """All of its members, except for the list of modules."""
    modules: Modules
    misfit: str | None = None
    """How the tensors contradict the encoding; None if they do not."""

    @classmethod
    def of(cls, row: EncodingRow, tensors: Iterable[TensorInfo]) -> "Description":
        """Return the description that a checkpoint has to have whose weights are in an encoding."""
        infos = {info.name: info for info in tensors}
        return cls(_facts(row), Modules.of(infos.values()), _misfit(row, infos))

    def fault(self, section: Any) -> str | None:
        """Return what is wrong with a description, or None."""
        if not isinstance(section, Mapping):
            return "it is missing"
        if self.misfit is not None:
            return self.misfit
        key = list_key(self.facts)
        said = {name: value for name, value in section.items() if name != key}
        for name in {**self.facts, **said}:
            if name not in said or name not in self.facts or said[name] != self.facts[name]:
                return f"its {quoted(name)} contradicts the tensors"
        listed = section.get(key or "")
        if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
            return f"its {key} is no list of names"
        if listed != sorted(set(listed), key=natural_key):
            return f"its {key} is not in order"
        method = self.facts["quant_method"]
        return self.modules.fault_of_list(method, listed, listed, self.modules.others)


def _facts(row: EncodingRow) -> dict[str, Any]:
    """Return what a description has to say of an encoding, from its blocks, codes and scales."""
    words = {part.role: (part.word, part.dtype) for part in row.parts}
    kind, bits = _NUMBERS[row.numbers]
    height, width = row.block
    if height > 1:  # as DeepSeek has it
        powers = {"scale_fmt": "ue8m0"} if row.powers else {}
        return {
            "quant_method": "fp8",
            "fmt": row.numbers,
            "activation_scheme": "dynamic",
            "weight_block_size": [height, width],
            **powers,
        }
    form = _FORMATS[row.numbers, words["codes"][0]]
    always = {"num_bits": bits, "type": kind, "symmetric": True}
    weights = {**always, "dynamic": False, "strategy": "group" if width else "channel"}
    group = {"format": form, "targets": ["Linear"], "weights": weights}
    if width:
        weights["group_size"] = width
    if row.powers:
        weights["scale_dtype"] = f"torch.{'uint8' if words['scale'][1] == 'U8' else 'float'}"
    if bits == 8:  # scales of rows go with scales of tokens
        group["input_activations"] = {**always, "strategy": "token", "dynamic": True}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
    }


def _misfit(row: EncodingRow, infos: Mapping[str, TensorInfo]) -> str | None:
    """Return the first weight whose scales are not as many as its blocks, or None."""
    codes, scale = (next(p for p in row.parts if p.role == role) for role in ("codes", "scale"))
    _, bits = _NUMBERS[row.numbers]
    for name, info in infos.items():
        stem = name.removesuffix(f".{codes.word}")
        if stem == name or len(info.shape) != 2 or info.dtype != codes.dtype:
            continue
        rows, columns = info.shape[0], info.shape[1] * DTYPE_BITS[info.dtype] // bits
        height, width = row.block[0] or rows, row.block[1] or columns
        wanted = (-(-rows // height), -(-columns // width))
        found = infos.get(f"{stem}.{scale.word}")
        if found is None or found.shape != wanted:
            shape = "no scale" if found is None else f"scales of shape {list(found.shape)}"
            return f"{quoted(name)} has {shape}, and its blocks are {list(wanted)}"
    return None
