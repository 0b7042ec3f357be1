"""Decide which keys of config.json a conversion makes untrue, and their new values.

    a cast                    dtype, in every section
    a full dequantization     quantization_config, wherever it is, and files that describe it
    a partial dequantization  the list of exceptions in quantization_config
    a quantization            quantization_config, which becomes that of the result, and such files
    the layers from 0 on      their number, and lists with an item for each

The keys are rows of `data/config_keys.toml`. All other keys stay, even if they were not true
before.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from streamconv.catalog.config_keys import config_keys
from streamconv.catalog.families import HUB_NAMES, Form
from streamconv.checkpoint.casting import Casting
from streamconv.checkpoint.stored_dtypes import is_quantized, main_dtype
from streamconv.checkpoint.types import Checkpoint, TensorInfo
from streamconv.detection.detect import Detected
from streamconv.detection.layer_filter import LayerFilter
from streamconv.formats.json_edit import REMOVED, Edit, edit_json, edit_value
from streamconv.planning.config_edits import (
    dtype_edits,
    exception_edits,
    in_order_of_text,
    layer_edits,
    quantization_paths,
    quantized_edits,
    written_tensors,
)
from streamconv.planning.config_notes import cache_notes, layer_and_list_notes, quantized_notes
from streamconv.planning.expert_notes import expert_notes
from streamconv.quantization.announcement import contradiction_notes


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """The changes of config.json, and of other files that describe quantized weights."""

    edits: tuple[Edit, ...] = ()
    """The changes of config.json, in its order."""
    omitted: tuple[Edit, ...] = ()
    """The changes that `--keep-config` leaves out."""
    is_kept: bool = False
    """True if `--keep-config` was given."""
    left_out: frozenset[str] = frozenset()
    """Names of files that are not copied, because they do not describe the output."""
    notes: tuple[str, ...] = ()
    """Notes to read before the result is loaded."""

    def content(self, checkpoint: Checkpoint) -> bytes:
        """Return the content of the edited config.json."""
        return edit_json(checkpoint.config_text.decode("utf-8"), self.edits).encode("utf-8")

    def config(self, checkpoint: Checkpoint) -> Mapping[str, Any]:
        """Return the edited config as a value."""
        edited: Mapping[str, Any] = edit_value(checkpoint.config, self.edits)
        return edited

    def rows(self) -> list[dict[str, Any]] | None:
        """Return the changes as JSON, as the manifest records them; None if it is kept."""
        return None if self.is_kept else [edit_row(edit) for edit in self.edits]


AS_IT_IS = ConfigChange()


def edit_row(edit: Edit) -> dict[str, Any]:
    """Return an edit as JSON: the path of a key, and its new value unless the key is removed."""
    value = {} if edit.new is REMOVED else {"to": edit.new}
    return {"key": ".".join(edit.path), **value}


def config_change(
    checkpoint: Checkpoint,
    source: Detected,
    casting: Casting,
    layers: range | None,
    *,
    keep: bool = False,
    names: Form = HUB_NAMES,
    left_out_weights: Mapping[str, str] | None = None,
    merged: Collection[str] = (),
) -> ConfigChange:
    """Decide the changes of config.json.

    Args:
        checkpoint: The source as it is stored.
        source: What was detected in it, with `casting` applied.
        casting: The casts that were asked for.
        layers: Numbers of the layers that are kept; None for all.
        keep: True to leave config.json as it is.
        names: The form whose names the output has.
        left_out_weights: By name, why some of the selected weights are not quantized.
        merged: The patterns of the stacks that do not become single experts.
    """
    config, left_out = checkpoint.config, frozenset[str]()
    layer_filter = LayerFilter.of(source.layer_lists, layers)
    kept = layer_filter.kept(source.hub_names)
    infos = kept.values()
    is_described = casting.quantize is not None or casting.dequantize is not None
    written = list(written_tensors(source.hub_names, layer_filter, names)) if is_described else []
    edits: list[Edit] = []
    loses = casting.quantize is None and _loses_quantization(checkpoint, infos, casting)
    is_replaced = casting.quantize is not None and any(quantization_paths(config))
    if casting.quantize is not None:
        edits += quantized_edits(checkpoint, casting, written)
        left_out = config_keys().quantization_files
    elif loses:
        edits += [Edit(path, REMOVED) for path in quantization_paths(config)]
        left_out = config_keys().quantization_files
    elif casting.dequantize is not None:
        edits += exception_edits(checkpoint, written)
    if casting.dtype or _is_dequantized(checkpoint, casting):
        edits += dtype_edits(checkpoint, source.layer_lists, casting, main_dtype(infos))
    if layers is not None and layers.start == 0:
        edits += layer_edits(config, source.layer_lists, layers)
    edits = in_order_of_text(config, edits)
    notes = (
        *contradiction_notes(config, checkpoint.quant_config),
        *(expert_notes(kept.items(), merged) if is_described else ()),
        *(cache_notes(infos) if (loses or is_replaced) and not keep else ()),
        *layer_and_list_notes(checkpoint, source, casting, layers, edits),
        *quantized_notes(checkpoint, source, casting, written, left_out_weights or {}),
    )
    if keep:
        return ConfigChange(omitted=tuple(edits), is_kept=True, notes=notes)
    return ConfigChange(tuple(edits), left_out=left_out, notes=notes)


def _is_dequantized(checkpoint: Checkpoint, casting: Casting) -> bool:
    """Return True if quantized weights of the source, or of its template, are dequantized."""
    return casting.dequantize is not None or checkpoint.has_dequantized_template


def _loses_quantization(
    checkpoint: Checkpoint, infos: Iterable[TensorInfo], casting: Casting
) -> bool:
    """Return True if config.json may describe quantized weights, and the output has none.

    The config.json of a DCP describes the weights that training began with.
    """
    was_quantized = _is_dequantized(checkpoint, casting) or checkpoint.format == "dcp"
    return was_quantized and not any(map(is_quantized, infos))
