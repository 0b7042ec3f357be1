"""Which parts of a config.json may reach transformers: its own names only, and plausible sizes.

transformers does more with a config than build a model from it. It fetches and imports kernels that
an attention setting names, fetches configs of backbones, and imports packages for quantized
weights. And it makes as many layers, experts and labels as the config says, before it looks at any
tensor.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from streamconv.checkpoint.types import Checkpoint
from streamconv.errors import BadCheckpoint, PlanRefused, quoted

MAX_DEPTH = 32
"""How deep a config may nest. No real one nests as deep."""
MAX_POSITIONS = 2**26
"""The most positions that a config may have. They cost nothing, as they are computed when they are
used. The longest known context has 2**24."""

_ADMITTED = {
    "attn_implementation": {"eager", "sdpa"},
    "experts_implementation": {"eager", "batched_mm", "grouped_mm"},
}
"""The values that settings may have. Others are left out, so transformers takes its default."""
_LEFT_OUT = re.compile(
    r"_*(auto_map|name_or_path|trust_remote_code|custom_generate|custom_pipelines|transformers_weights|use_kernels|"
    r"kernel_config|kernel_mapping|use_pretrained_backbone|commit_hash|"
    r"\w*implementation\w*|auto_class|attribute_map|sub_configs|base_config_key|base_model_\w+_plan|"
    r"to_\w+|from_\w+|get_\w+|save_\w+|\w*__)"
)
"""Names of code, places and kernels, and of what the class of a configuration has, such as other
names for attributes. None of them says what the model is."""
_NUMBER = re.compile("[0-9]{1,9}")
"""A part of a name that may be the number of a layer."""
_DTYPE = re.compile(r"(b?float|u?int|complex)[0-9]+(_[a-z0-9]+)*|bool|half|double|auto")

QUANTIZERS = frozenset({"fp8", "mxfp8", "mxfp4", "nvfp4", "bitnet"})
"""Methods for which transformers needs no other package, if no weight is read."""
PACKAGES = {"compressed-tensors": "compressed_tensors"}
"""Methods for which it needs a package that reads configs only, and the module of that package."""
_TEXT_SECTIONS = ("text_config", "llm_config", "language_config")
"""Sections of a config whose weights may be quantized alone."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What the headers of a checkpoint show of its sizes."""

    layers: int
    """The largest number in a tensor's name, plus one."""
    extent: int
    """The longest axis of a tensor, or `layers` if that is more."""

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "Shown":
        """Return what the headers show."""
        parts = {part for name in checkpoint.tensors for part in name.split(".")}
        layers = max((int(part) for part in parts if _NUMBER.fullmatch(part)), default=0) + 1
        shapes = {info.shape for info in checkpoint.tensors.values()}
        longest = max((max(shape, default=1) for shape in shapes), default=1)
        return cls(layers, max(layers, longest))


_LAYERS = re.compile(r"\w*(layer|block|stage|depth)s?|n_layer")
_COUNTS = re.compile(r"(num|n|count)_\w+|\w+_(experts|heads|labels|groups)")
_POSITIONS = re.compile(r"\w*(position|seq|context|ctx|len)\w*")
_SIZES = re.compile(r"\w*(size|dim|rank|width|channels|features)s?|\w*_(hidden|inner|model)")


def check_sizes(checkpoint: Checkpoint) -> None:
    """Refuse a config that counts far more than the tensors show.

    A config may count four times as many layers as the tensors show, or 256, because a model may
    have been cut. It may count eight times as many other things as the longest axis has elements,
    because weights may be packed, or 4,096. The same holds for sizes, with 2**20 for 4,096.

    Raises BadCheckpoint.
    """
    shown, location = Shown.of(checkpoint), checkpoint.location
    for key, value in _numbers(checkpoint.config):
        if _LAYERS.fullmatch(key):
            limit, fact = max(256, 4 * shown.layers), f"{shown.layers} layers"
        elif _POSITIONS.fullmatch(key):
            limit, fact = MAX_POSITIONS, f"{shown.extent} of anything"
        elif _COUNTS.fullmatch(key):
            limit, fact = max(4096, 8 * shown.extent), f"{shown.extent} of anything"
        elif _SIZES.fullmatch(key):
            limit, fact = max(2**20, 8 * shown.extent), f"{shown.extent} of anything"
        else:
            continue
        if value > limit:
            raise BadCheckpoint(
                f"cannot check {location}: config.json says {quoted(key)} = {value:.9g}, "
                f"its tensors show no more than {fact}",
                "correct config.json, or add the tensors that are missing",
            )


def _numbers(config: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield every number in a config with the key that it is under, lists included."""
    pending: list[tuple[str, Any]] = list(config.items())
    while pending:
        key, value = pending.pop()
        if isinstance(value, Mapping):
            pending.extend((str(inner), each) for inner, each in value.items())
        elif isinstance(value, list):
            pending.extend((key, each) for each in value)
        elif isinstance(value, int | float):
            yield key, value


def safe_config(checkpoint: Checkpoint, methods: Collection[str]) -> dict[str, Any]:
    """Return the config without names of code, places and kernels, at any depth.

    Args:
        checkpoint: The checkpoint with the config.
        methods: The methods of quantization that transformers knows. It ignores others.

    Raises:
        PlanRefused: transformers would have to fetch or import something for the config.
        BadCheckpoint: The config nests too deep.
    """
    safe = _safe(checkpoint.config, checkpoint.location, 0)
    method = quantization_method(safe)
    if method in PACKAGES and find_spec(PACKAGES[method]) is None:
        raise PlanRefused(
            f"cannot check {checkpoint.location}: config.json says that its weights are quantized "
            f"by {method}, and the package {method} is not installed",
            f"run `pip install {method}`",
        )
    if method in methods and method not in QUANTIZERS and method not in PACKAGES:
        raise PlanRefused(
            f"cannot check {checkpoint.location}: config.json says that its weights are quantized "
            f"by {quoted(str(method))}, for which transformers would import another package",
            "load it with transformers itself if you trust it",
        )
    return safe


def quantization_method(config: Mapping[str, Any]) -> str | None:
    """Return how the weights are quantized, as transformers understands it; None if they are not.

    The whole model counts before its language model.
    """
    sections = (config, *(config.get(section) for section in _TEXT_SECTIONS))
    found = (s.get("quantization_config") for s in sections if isinstance(s, Mapping))
    described = next((each for each in found if each), None)
    if not isinstance(described, Mapping):
        return None
    if described.get("load_in_8bit") or described.get("load_in_4bit"):
        return "bitsandbytes_8bit" if described.get("load_in_8bit") else "bitsandbytes_4bit"
    method = described.get("quant_method")
    return method if isinstance(method, str) else None


def _safe(config: Mapping[str, Any], location: str, depth: int) -> dict[str, Any]:
    if depth > MAX_DEPTH:
        raise BadCheckpoint(f"cannot check {location}: config.json nests deeper than {MAX_DEPTH}")
    return {
        key: _safe_value(value, location, depth)
        for key, value in config.items()
        if _is_safe(key, value, location)
    }


def _safe_value(value: Any, location: str, depth: int) -> Any:
    if isinstance(value, Mapping):
        return _safe(value, location, depth + 1)
    if isinstance(value, list):
        if depth > MAX_DEPTH:
            raise BadCheckpoint(
                f"cannot check {location}: config.json nests deeper than {MAX_DEPTH}"
            )
        return [_safe_value(each, location, depth + 1) for each in value]
    return value


def _is_safe(key: str, value: Any, location: str) -> bool:
    """Return False for a key that is left out. Raises PlanRefused for a backbone to be fetched."""
    setting = key.strip("_").removesuffix("_internal")
    if isinstance(value, str) and value in _ADMITTED.get(setting, ()):
        return not key.endswith("_internal")
    if _LEFT_OUT.fullmatch(key):
        return False
    if key in ("dtype", "torch_dtype"):
        return isinstance(value, str) and _DTYPE.fullmatch(value) is not None
    if key in ("backbone", "use_timm_backbone") and value:
        raise PlanRefused(
            f"cannot check {location}: config.json says {quoted(key)} = {quoted(str(value))}, "
            "which transformers would fetch or build with another package",
            "load it with transformers itself if you trust it",
        )
    return True
