"""A trial of loading a checkpoint with transformers, on the meta device.

    config.json --> model class, configuration --> model without memory for its weights
    headers     --> tensors without data       --> transformers' own loader --> keys

Whatever transformers converts or renames on loading happens as in a real load, and no weight is
read. No code of the checkpoint is run: config.json is data here as everywhere.

This is the only module that imports torch and transformers.
"""

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, redirect_stderr
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from streamconv.catalog.catalog import default_catalog
from streamconv.checkpoint.types import Checkpoint
from streamconv.detection.detect import detect
from streamconv.errors import BadCheckpoint, PlanRefused, StreamconvError, quoted
from streamconv.formats.safetensors import DTYPE_BITS
from streamconv.system.extras import TORCH, require_extra
from streamconv.verification.config_values import (
    PACKAGES,
    check_sizes,
    quantization_method,
    safe_config,
)
from streamconv.verification.sealed import sealed

if TYPE_CHECKING:
    import torch


SPARE_PARAMETERS = 100_000
"""How many parameters a model may have in addition to four for each tensor of the checkpoint."""


@dataclass(frozen=True, slots=True)
class Loading:
    """The result of a trial. Keys are those of the model, but for the unexpected ones."""

    model: str
    """Name of the model's class."""
    keys: int
    """Number of keys that the model has."""
    missing: tuple[str, ...]
    """Keys without a tensor: loading would initialize them at random."""
    unexpected: tuple[str, ...]
    """Tensors without a key: loading would drop them."""
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    """Keys whose shapes differ, with the checkpoint's and the model's."""
    failed: tuple[tuple[str, str], ...]
    """Keys that could not be made from the checkpoint's tensors, with the error."""
    damage: str = ""
    """Defect of the checkpoint's experts, if keys failed for that reason."""
    not_shown: str = ""
    """What the keys do not show; empty if they show all."""

    @property
    def is_clean(self) -> bool:
        """True if every key of the model gets its tensor, and every tensor has a key."""
        return not (self.missing or self.unexpected or self.mismatched or self.failed)

    def __repr__(self) -> str:
        return (
            f"<Loading into {self.model}: {self.keys:,} keys, {len(self.missing):,} missing, "
            f"{len(self.unexpected):,} unexpected, {len(self.mismatched):,} mismatched, "
            f"{len(self.failed):,} failed>"
        )


def check_loading(checkpoint: Checkpoint) -> Loading:
    """Load the headers of a checkpoint as transformers would load the checkpoint.

    Returns:
        The keys that would and would not load.

    Raises:
        PlanRefused: torch or transformers is not installed; transformers does not know the model
            type, or its loader fails on the headers.
        BadCheckpoint: transformers cannot build a model from config.json.
    """
    transformers = _import_transformers()
    check_sizes(checkpoint)
    max_parameters = SPARE_PARAMETERS + 4 * len(checkpoint.tensors)
    config = _configuration(transformers, checkpoint)
    method = quantization_method(checkpoint.config)
    cls = _model_class(transformers, checkpoint, config)
    with sealed(max_parameters), redirect_stderr(io.StringIO()):  # packages show bars of their own
        model, quantizer = _build_model(transformers, checkpoint, cls, config)
        found = _load(transformers, checkpoint, model, quantizer)
    failed = {key: _reason(text) for key, text in found.conversion_errors.items()}
    mismatched = ((key, tuple(here), tuple(there)) for key, here, there in found.mismatched_keys)
    return Loading(
        model=cls.__name__,
        keys=len(model.state_dict()),
        missing=tuple(sorted(found.missing_keys - failed.keys())),
        unexpected=tuple(sorted(found.unexpected_keys)),
        mismatched=tuple(sorted(mismatched)),
        failed=tuple(sorted(failed.items())),
        damage=_damage(checkpoint) if failed else "",
        not_shown=(
            f"the values that weights quantized by {quoted(method)} load to: only their names, "
            "shapes and dtypes were looked at"
            if method
            else ""
        ),
    )


def _damage(checkpoint: Checkpoint) -> str:
    """Return what is wrong with the experts; empty if nothing is."""
    try:
        detect(checkpoint, default_catalog())
    except BadCheckpoint as error:
        return error.message
    except StreamconvError:
        pass
    return ""


# --- the model ---------------------------------------------------------------------------------


def _import_transformers() -> Any:
    """Import transformers and silence it. Raises PlanRefused if it or torch is not installed."""
    require_extra("check if transformers loads a checkpoint", "torch", TORCH)
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def _configuration(transformers: Any, checkpoint: Checkpoint) -> Any:
    """Return transformers' configuration of the model that config.json describes.

    Raises PlanRefused for an unknown model type, BadCheckpoint for a malformed config.json.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

    version = transformers.__version__
    model_type = checkpoint.config.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        said = quoted(str(model_type)) if model_type is not None else "none"
        raise PlanRefused(
            f"{checkpoint.location}: transformers {version} does not know the model type of "
            f"config.json, {said}",
            "use a transformers that has it; code in a checkpoint is never run",
        )
    fields = safe_config(checkpoint, AUTO_QUANTIZER_MAPPING)
    _import_package(quantization_method(fields), checkpoint)
    try:
        with sealed(SPARE_PARAMETERS):
            return CONFIG_MAPPING[model_type].from_dict(fields)
    except Exception as error:
        raise BadCheckpoint(
            f"{checkpoint.location}: transformers {version} does not accept config.json: "
            f"{_in_a_line(error)}"
        ) from error


def _import_package(method: str | None, checkpoint: Checkpoint) -> None:
    """Import what a method of quantization needs, while the checkpoint has no say in it.

    Raises PlanRefused if that fails.
    """
    if method not in PACKAGES:
        return
    try:
        import_module(f"{PACKAGES[method]}.compressors")
    except Exception as error:
        raise PlanRefused(
            f"cannot check {checkpoint.location}: config.json says that its weights are quantized "
            f"by {method}, and the package {method} cannot be imported: {_in_a_line(error)}",
            f"run `pip install --upgrade {method}`",
        ) from error


def _model_class(transformers: Any, checkpoint: Checkpoint, config: Any) -> Any:
    """Return the class that config.json names, or the one for its model type.

    Raises PlanRefused if transformers has neither.
    """
    modules = transformers._class_to_module
    for name in checkpoint.config.get("architectures") or ():
        if not isinstance(name, str) or ".modeling_" not in modules.get(name, ""):
            continue  # it is not a model, so its module may import anything
        cls = getattr(transformers, name)
        if isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel):
            return cls
    for auto in ("AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModel"):
        mapping = getattr(transformers, auto)._model_mapping
        if type(config) in mapping:
            return mapping[type(config)]
    model_type = quoted(str(checkpoint.config["model_type"]))
    raise PlanRefused(f"transformers has no model for the model type {model_type}")


def _build_model(
    transformers: Any, checkpoint: Checkpoint, cls: Any, config: Any
) -> tuple[Any, Any]:
    """Build the model on the meta device, and the quantizer that its weights need or None.

    Raises BadCheckpoint if the class does not accept the configuration.
    """
    try:
        return _on_meta_device(cls, config)
    except Exception as error:
        raise BadCheckpoint(
            f"{checkpoint.location}: transformers {transformers.__version__} makes no "
            f"{cls.__name__} of config.json: {_in_a_line(error)}"
        ) from error


def _on_meta_device(cls: Any, config: Any) -> tuple[Any, Any]:
    import torch
    from transformers.quantizers.auto import AutoHfQuantizer

    described = getattr(config, "quantization_config", None) or getattr(
        config.get_text_config(decoder=True), "quantization_config", None
    )
    quantizer = None
    if described is not None and AutoHfQuantizer.supports_quant_method(described):
        config.quantization_config = AutoHfQuantizer.merge_quantization_configs(described, None)
        quantizer = AutoHfQuantizer.from_config(config.quantization_config, pre_quantized=True)
        if config.quantization_config.quant_method in PACKAGES:
            quantizer.validate_environment()  # sets what loading needs; others want an accelerator
    with ExitStack() as stack:
        for context in cls.get_init_context(torch.float32, quantizer is not None, False, None):
            stack.enter_context(context)
        model = cls(config)
        if quantizer is not None:
            quantizer.preprocess_model(model=model, dtype=torch.float32, device_map={"": "meta"})
    return model, quantizer


# --- its tensors -------------------------------------------------------------------------------


def _load(transformers: Any, checkpoint: Checkpoint, model: Any, quantizer: Any) -> Any:
    """Return what transformers' loader says of the tensors. Raises PlanRefused if it fails."""
    try:
        return _load_headers(checkpoint, model, quantizer)
    except Exception as error:
        version = transformers.__version__
        raise PlanRefused(
            f"{checkpoint.location}: the loader of transformers {version} fails on its headers: "
            f"{_in_a_line(error)}"
        ) from error


def _load_headers(checkpoint: Checkpoint, model: Any, quantizer: Any) -> Any:
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import convert_and_load_state_dict_in_model
    from transformers.modeling_utils import LoadStateDictConfig

    found, _ = convert_and_load_state_dict_in_model(
        model=model,
        state_dict=dict(_empty_tensors(checkpoint)),
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


def _empty_tensors(checkpoint: Checkpoint) -> "Iterator[tuple[str, torch.Tensor]]":
    """Yield every tensor without its data; as bytes if torch has no such dtype."""
    import torch
    from safetensors.torch import _TYPES

    types: Mapping[str, torch.dtype] = _TYPES
    for info in checkpoint.tensors.values():
        dtype, shape = types.get(info.dtype), info.shape
        if dtype is None:
            dtype, shape = torch.uint8, (*shape[:-1], shape[-1] * DTYPE_BITS[info.dtype] // 8)
        yield info.name, torch.empty(shape, dtype=dtype, device="meta")


def _reason(text: str) -> str:
    """Return the error at the end of a traceback, in a line."""
    lines = [line for line in text.splitlines() if re.match(r"\w+(Error|Exception): ", line)]
    return quoted(lines[-1] if lines else text.strip().splitlines()[-1])


def _in_a_line(error: Exception) -> str:
    """Return the text of an error in one line, safe to print."""
    text = str(error).strip() or type(error).__name__
    return quoted(" ".join(text.split()))
