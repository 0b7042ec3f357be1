"""Whether transformers would load a checkpoint, found out on the meta device.

transformers builds the model that config.json describes, without memory for its weights, and its
own loader puts tensors into it that have the shapes of the checkpoint's headers and nothing else.
So whatever it converts or renames on loading is as in a real load, and no weight is read. No code
of the checkpoint is run: config.json is data here as everywhere.

This is the one module that imports torch and transformers.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from streamconv.catalog.catalog import default_catalog
from streamconv.checkpoint.types import Checkpoint
from streamconv.detection.detect import detect
from streamconv.errors import BadCheckpoint, PlanRefused, StreamconvError, quoted
from streamconv.formats.safetensors import DTYPE_BITS

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Loading:
    """What came of it. Keys are the model's; it has no place for the unexpected ones."""

    model: str
    """The class that was built."""
    keys: int
    """How many keys the model has."""
    missing: tuple[str, ...]
    """Keys that the checkpoint has nothing for: they would be made up."""
    unexpected: tuple[str, ...]
    """Keys that the model has no place for: they would be dropped."""
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    """Keys whose shapes differ: the checkpoint's, and the model's."""
    failed: tuple[tuple[str, str], ...]
    """Keys that could not be made from the checkpoint's tensors, and what went wrong."""
    damage: str = ""
    """What is wrong with the checkpoint's experts, where that is the reason."""

    @property
    def is_clean(self) -> bool:
        """Whether every key of the model gets its tensor and every tensor its key."""
        return not (self.missing or self.unexpected or self.mismatched or self.failed)


def check_loading(checkpoint: Checkpoint) -> Loading:
    """Load the headers of `checkpoint` as transformers would load the checkpoint.

    Raises PlanRefused where transformers is not installed or knows no such model type,
    BadCheckpoint where it makes no model of config.json.
    """
    transformers = _transformers()
    config, cls = _class_of(transformers, checkpoint)
    version = f"transformers {transformers.__version__}"
    try:
        model, quantizer = _built(cls, config)
    except Exception as error:
        raise BadCheckpoint(
            f"{checkpoint.location}: {version} makes no {cls.__name__} of config.json: "
            f"{_line(error)}"
        ) from error
    try:
        found = _loaded(model, quantizer, checkpoint)
    except Exception as error:
        raise PlanRefused(
            f"{checkpoint.location}: the loader of {version} fails on its headers: {_line(error)}"
        ) from error
    failed = {key: _reason(text) for key, text in found.conversion_errors.items()}
    return Loading(
        model=cls.__name__,
        keys=len(model.state_dict()),
        missing=tuple(sorted(found.missing_keys - failed.keys())),
        unexpected=tuple(sorted(found.unexpected_keys)),
        mismatched=tuple(
            sorted((key, tuple(here), tuple(there)) for key, here, there in found.mismatched_keys)
        ),
        failed=tuple(sorted(failed.items())),
        damage=_damage(checkpoint) if failed else "",
    )


def _damage(checkpoint: Checkpoint) -> str:
    try:
        detect(checkpoint, default_catalog())
    except BadCheckpoint as error:
        return error.message
    except StreamconvError:
        pass
    return ""


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise PlanRefused(
            f"transformers cannot be imported: {error}", "pip install torch transformers"
        ) from None
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def _class_of(transformers: Any, checkpoint: Checkpoint) -> tuple[Any, Any]:
    """The configuration and the class of the model; the class is the one that config.json names,
    where transformers has it."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    model_type = checkpoint.config.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        said = quoted(str(model_type)) if model_type is not None else "none"
        raise PlanRefused(
            f"{checkpoint.location}: transformers {transformers.__version__} does not know the "
            f"model type of config.json, {said}",
            "code that a checkpoint brings along is never run",
        )
    try:
        config = CONFIG_MAPPING[model_type].from_dict(dict(checkpoint.config))
    except Exception as error:
        raise BadCheckpoint(
            f"{checkpoint.location}: transformers {transformers.__version__} does not accept "
            f"config.json: {_line(error)}"
        ) from error
    for name in checkpoint.config.get("architectures") or ():
        cls = getattr(transformers, name, None) if isinstance(name, str) else None
        if isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel):
            return config, cls
    for auto in ("AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModel"):
        mapping = getattr(transformers, auto)._model_mapping
        if type(config) in mapping:
            return config, mapping[type(config)]
    raise PlanRefused(f"transformers has no model for the model type {quoted(model_type)}")


def _built(cls: Any, config: Any) -> tuple[Any, Any]:
    """The model on the meta device, and what handles its quantized weights, if they are."""
    import torch
    from transformers.quantizers.auto import AutoHfQuantizer

    described = getattr(config, "quantization_config", None)
    quantizer = None
    if described is not None and AutoHfQuantizer.supports_quant_method(described):
        config.quantization_config = AutoHfQuantizer.merge_quantization_configs(described, None)
        quantizer = AutoHfQuantizer.from_config(config.quantization_config, pre_quantized=True)
    with ExitStack() as stack:
        for context in cls.get_init_context(torch.float32, quantizer is not None, False, None):
            stack.enter_context(context)
        model = cls(config)
        if quantizer is not None:
            quantizer.preprocess_model(model=model, dtype=torch.float32, device_map={"": "meta"})
    return model, quantizer


def _loaded(model: Any, quantizer: Any, checkpoint: Checkpoint) -> Any:
    """What transformers' own loader says of the checkpoint's tensors."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import convert_and_load_state_dict_in_model
    from transformers.modeling_utils import LoadStateDictConfig

    found, _ = convert_and_load_state_dict_in_model(
        model=model,
        state_dict=dict(_on_meta(checkpoint)),
        load_config=LoadStateDictConfig(
            ignore_mismatched_sizes=True,
            device_map={"": "meta"},
            hf_quantizer=quantizer,
            weight_mapping=get_model_conversion_mapping(model, None, quantizer),
        ),
        disk_offload_index=None,
    )
    model.tie_weights(missing_keys=found.missing_keys, recompute_mapping=False)
    model._adjust_missing_and_unexpected_keys(found)
    return found


def _on_meta(checkpoint: Checkpoint) -> "Iterator[tuple[str, torch.Tensor]]":
    """Every tensor without its data."""
    import torch
    from safetensors.torch import _TYPES

    types: Mapping[str, torch.dtype] = _TYPES
    for info in checkpoint.tensors.values():
        dtype, shape = types.get(info.dtype), info.shape
        if dtype is None:
            dtype, shape = torch.uint8, (*shape[:-1], shape[-1] * DTYPE_BITS[info.dtype] // 8)
        yield info.name, torch.empty(shape, dtype=dtype, device="meta")


def _reason(text: str) -> str:
    """The error at the end of a traceback, in a line."""
    lines = [line for line in text.splitlines() if re.match(r"\w+(Error|Exception): ", line)]
    return quoted(lines[-1] if lines else text.strip().splitlines()[-1])


def _line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return quoted(" ".join(text.split()))
