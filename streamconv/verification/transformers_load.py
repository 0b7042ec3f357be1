"""A trial of loading a checkpoint with transformers, on the meta device.

    config.json --> model without memory for its weights
    headers     --> tensors without data, of one layer of each kind --> transformers' own loader

Whatever transformers converts or renames on loading happens as in a real load, and no weight is
read. If a layer that represents others does not load, the tensors of all layers are loaded.
"""

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from streamconv.catalog.catalog import default_catalog
from streamconv.checkpoint.types import Checkpoint, TensorInfo
from streamconv.detection.detect import detect
from streamconv.errors import BadCheckpoint, Interrupted, PlanRefused, StreamconvError, quoted
from streamconv.formats.safetensors import DTYPE_BITS
from streamconv.verification.alike_layers import keys_like, layers_like_others, number_of_layer
from streamconv.verification.config_values import check_sizes, quantization_method
from streamconv.verification.sealed import sealed
from streamconv.verification.transformers_model import (
    SPARE_PARAMETERS,
    build_model,
    configuration,
    import_transformers,
    in_a_line,
    model_class,
)

if TYPE_CHECKING:
    import torch


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
    transformers = import_transformers()
    check_sizes(checkpoint)
    max_parameters = SPARE_PARAMETERS + 4 * len(checkpoint.tensors)
    config = configuration(transformers, checkpoint)
    method = quantization_method(checkpoint.config)
    cls = model_class(transformers, checkpoint, config)
    with sealed(max_parameters), redirect_stderr(io.StringIO()):  # packages show bars of their own
        # building a model changes its configuration
        model, quantizer = build_model(transformers, checkpoint, cls, deepcopy(config))
        like = layers_like_others(checkpoint.tensors.values(), _keys(model))
        found = _load(transformers, checkpoint, model, quantizer, like)
        if found is None:
            model, quantizer = build_model(transformers, checkpoint, cls, config)
            found = _load(transformers, checkpoint, model, quantizer, {})
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


def _keys(model: Any) -> Iterator[tuple[str, object, tuple[int, ...]]]:
    """Yield name, dtype and shape of every key of a model."""
    for key, value in model.state_dict().items():
        yield key, getattr(value, "dtype", None), tuple(getattr(value, "shape", ()))


def _load(
    transformers: Any, checkpoint: Checkpoint, model: Any, quantizer: Any, like: Mapping[int, int]
) -> Any:
    """Return the report of transformers' loader on the tensors.

    None if a layer that represents others does not load, so that all of them have to be loaded.

    Args:
        transformers: The package.
        checkpoint: The tensors.
        model: The model on the meta device.
        quantizer: What its quantized weights need, or None.
        like: The numbers of the layers that are not loaded, each with that of its representative.

    Raises:
        PlanRefused: The loader fails.
    """
    try:
        return _load_headers(checkpoint, model, quantizer, like)
    except Interrupted:
        raise
    except Exception as error:
        version = transformers.__version__
        raise PlanRefused(
            f"cannot check {checkpoint.location}: the loader of transformers {version} fails on "
            f"its headers: {in_a_line(error)}"
        ) from error


def _load_headers(
    checkpoint: Checkpoint, model: Any, quantizer: Any, like: Mapping[int, int]
) -> Any:
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import convert_and_load_state_dict_in_model
    from transformers.modeling_utils import LoadStateDictConfig

    found, _ = convert_and_load_state_dict_in_model(
        model=model,
        state_dict={
            info.name: _empty_tensor(info)
            for info in checkpoint.tensors.values()
            if number_of_layer(info.name) not in like
        },
        load_config=LoadStateDictConfig(
            ignore_mismatched_sizes=True,
            device_map={"": "meta"},
            hf_quantizer=quantizer,
            weight_mapping=get_model_conversion_mapping(model, None, quantizer),
        ),
        disk_offload_index=None,
    )
    loaded = {key for key in found.missing_keys if number_of_layer(key) not in like}
    found.missing_keys = {*loaded, *keys_like(loaded, like)}
    found.unexpected_keys |= {*keys_like(found.unexpected_keys, like)}
    model.tie_weights(missing_keys=found.missing_keys, recompute_mapping=False)
    model._adjust_missing_and_unexpected_keys(found)  # some of them do not matter, by their names
    faulty = {*found.missing_keys, *found.unexpected_keys, *found.conversion_errors}
    faulty |= {key for key, *_ in found.mismatched_keys}
    represented = {*like, *like.values()}
    return None if any(number_of_layer(key) in represented for key in faulty) else found


def _empty_tensor(info: TensorInfo) -> "torch.Tensor":
    """Return a tensor without its data; as bytes if torch has no such dtype."""
    import torch
    from safetensors.torch import _TYPES

    types: Mapping[str, torch.dtype] = _TYPES
    dtype, shape = types.get(info.dtype), info.shape
    if dtype is None:
        dtype, shape = torch.uint8, (*shape[:-1], shape[-1] * DTYPE_BITS[info.dtype] // 8)
    return torch.empty(shape, dtype=dtype, device="meta")


def _reason(text: str) -> str:
    """Return the error at the end of a traceback, in a line."""
    lines = [line for line in text.splitlines() if re.match(r"\w+(Error|Exception): ", line)]
    return quoted(lines[-1] if lines else text.strip().splitlines()[-1])
