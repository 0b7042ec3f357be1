"""Builds the model of a config.json with transformers, on the meta device.

    config.json --> configuration, model class --> model without memory for its weights

No code of the checkpoint is run: config.json is data here as everywhere.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any

from streamconv.checkpoint.types import Checkpoint
from streamconv.errors import BadCheckpoint, Interrupted, PlanRefused, StreamconvError, quoted
from streamconv.system.extras import TORCH, require_extra
from streamconv.verification.config_values import PACKAGES, quantization_method, safe_config
from streamconv.verification.sealed import sealed

SPARE_PARAMETERS = 100_000
"""How many parameters a model may have in addition to four for each tensor of the checkpoint."""


_USED = (
    *("transformers", "transformers.conversion_mapping", "transformers.core_model_loading"),
    *("transformers.integrations.hub_kernels", "transformers.models.auto.configuration_auto"),
    *("transformers.modeling_utils", "transformers.quantizers.auto"),
)
"""The modules that a check uses. transformers imports most of them on demand."""
UPGRADE = "run `pip install --upgrade 'streamconv[torch]'`"


def import_transformers() -> Any:
    """Import transformers and silence it.

    Raises PlanRefused if it or torch is not installed, or if an import fails.
    """
    require_extra("check if transformers loads a checkpoint", "torch", TORCH)
    with _any_error_as(
        PlanRefused,
        "cannot check if transformers loads a checkpoint: transformers cannot be imported",
        UPGRADE,
    ):
        transformers, *_ = map(import_module, _USED)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def configuration(transformers: Any, checkpoint: Checkpoint) -> Any:
    """Return transformers' configuration of the model that config.json describes.

    Raises PlanRefused for an unknown model type, BadCheckpoint for a malformed config.json.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

    version = transformers.__version__
    model_type = checkpoint.config.get("model_type")
    if model_type is None:
        raise PlanRefused(
            f"cannot check {checkpoint.location}: config.json names no model type, or is missing",
            "put the config.json of the model into the checkpoint",
        )
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        raise PlanRefused(
            f"cannot check {checkpoint.location}: transformers {version} does not know the model "
            f"type of config.json, {quoted(str(model_type))}",
            "use a transformers that has it; code in a checkpoint is never run",
        )
    fields = safe_config(checkpoint, AUTO_QUANTIZER_MAPPING)
    _import_package(quantization_method(fields), checkpoint)
    with (
        _any_error_as(
            BadCheckpoint,
            f"cannot check {checkpoint.location}: transformers {version} does not accept "
            "config.json",
        ),
        sealed(SPARE_PARAMETERS),
    ):
        return CONFIG_MAPPING[model_type].from_dict(fields)


def _import_package(method: str | None, checkpoint: Checkpoint) -> None:
    """Import what a method of quantization needs, while the checkpoint has no say in it.

    Raises PlanRefused if that fails.
    """
    if method not in PACKAGES:
        return
    with _any_error_as(
        PlanRefused,
        f"cannot check {checkpoint.location}: config.json says that its weights are quantized by "
        f"{method}, and the package {method} cannot be imported",
        f"run `pip install --upgrade {method}`",
    ):
        import_module(f"{PACKAGES[method]}.compressors")


def model_class(transformers: Any, checkpoint: Checkpoint, config: Any) -> Any:
    """Return the class that config.json names, or the one for its model type.

    Raises PlanRefused if transformers has neither, or cannot import it.
    """
    with _any_error_as(
        PlanRefused,
        f"cannot check {checkpoint.location}: transformers {transformers.__version__} cannot "
        "import the model",
        UPGRADE,
    ):
        cls = _named_class(transformers, checkpoint.config) or _class_for(transformers, config)
    if cls is not None:
        return cls
    model_type = quoted(str(checkpoint.config["model_type"]))
    raise PlanRefused(
        f"cannot check {checkpoint.location}: transformers {transformers.__version__} has no model "
        f"for the model type {model_type}",
        "install a newer transformers, or load it with the library that has the model",
    )


def _named_class(transformers: Any, fields: Mapping[str, Any]) -> Any:
    """Return the first class in `architectures` that is a model of transformers, or None."""
    modules = transformers._class_to_module
    names = fields.get("architectures")
    for name in names if isinstance(names, list) else ():
        if not isinstance(name, str) or ".modeling_" not in modules.get(name, ""):
            continue  # it is not a model, so its module may import anything
        cls = getattr(transformers, name)
        if isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel):
            return cls
    return None


def _class_for(transformers: Any, config: Any) -> Any:
    """Return the class for a configuration, or None."""
    for auto in ("AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModel"):
        mapping = getattr(transformers, auto)._model_mapping
        if type(config) in mapping:
            return mapping[type(config)]
    return None


def build_model(
    transformers: Any, checkpoint: Checkpoint, cls: Any, config: Any
) -> tuple[Any, Any]:
    """Build the model on the meta device, and the quantizer for its weights.

    The quantizer is None if the weights need none. Raises BadCheckpoint if the class does not
    accept the configuration.
    """
    with _any_error_as(
        BadCheckpoint,
        f"cannot check {checkpoint.location}: transformers {transformers.__version__} cannot "
        f"make a {cls.__name__} from config.json",
    ):
        return _on_meta_device(cls, config)


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


@contextmanager
def _any_error_as(kind: type[StreamconvError], fact: str, hint: str = "") -> Iterator[None]:
    """Raise any error as one of `kind`: packages that do not fit each other may raise any.

    A signal is no error of theirs.
    """
    try:
        yield
    except Interrupted:
        raise
    except Exception as error:
        raise kind(f"{fact}: {in_a_line(error)}", hint) from error


def in_a_line(error: Exception) -> str:
    """Return the text of an error in one line, safe to print."""
    text = str(error).strip() or type(error).__name__
    return quoted(" ".join(text.split()))
