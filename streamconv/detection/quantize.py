"""Describe a checkpoint as if the weights that `--quantize` selects were stored as codes.

Each of them is replaced by the tensors of its number format, which are made from it. The result is
planned like any quantized checkpoint.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from streamconv.catalog.config_keys import config_keys
from streamconv.catalog.encodings import EncodingRow, encoding_row
from streamconv.checkpoint.casting import Casting
from streamconv.checkpoint.config import config_members
from streamconv.checkpoint.layout_record import LayoutNames, Record
from streamconv.checkpoint.types import Checkpoint, TensorInfo
from streamconv.detection.detect import Detected
from streamconv.detection.expert_views import one_by_one
from streamconv.detection.quantizable_weights import QuantizableWeights
from streamconv.detection.refusals import divided_experts
from streamconv.errors import BadCheckpoint, PlanRefused, quoted
from streamconv.formats.json_edit import REMOVED, Edit, edit_value
from streamconv.quantization.encoded_parts import encoded_parts
from streamconv.quantization.number_format import UNDESCRIBED
from streamconv.quantization.quantized_config import SECTION, quantized_section
from streamconv.quantization.recognize import recognize


@dataclass(frozen=True, slots=True)
class Quantized:
    """A checkpoint with some of its weights quantized."""

    checkpoint: Checkpoint
    found: Detected
    """What is detected in it."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """By name, why some of the selected weights are not quantized."""
    separated: tuple[str, ...] = ()
    """Patterns of the experts that are stored merged, and are one by one in `checkpoint`."""


def quantize_checkpoint(
    checkpoint: Checkpoint,
    found: Detected,
    casting: Casting,
    detect: Callable[[Checkpoint, bool], Detected],
) -> Quantized:
    """Return `checkpoint` as if it had been stored with quantized weights.

    Args:
        checkpoint: The checkpoint with all other casts applied.
        found: What was detected in it.
        casting: What was asked for; without `quantize`, nothing changes.
        detect: Detects the result. Its second argument is True if the layout that the user declares
            is still that of the experts.

    Raises:
        PlanRefused: It is quantized already, nothing is chosen, only some weights of a layer's
            experts are, or experts do not fit the format.
        BadCheckpoint: A tensor of the format would have the name of another tensor.
    """
    if casting.quantize is None:
        return Quantized(checkpoint, found)
    row = encoding_row(casting.quantize, casting.scale)
    _check_not_quantized(checkpoint)
    seen = QuantizableWeights(found)
    chosen = seen.choose(casting, checkpoint.location)
    left_out = dict(_misfits(seen, chosen, row))
    chosen -= left_out.keys()
    if not chosen:
        raise PlanRefused(
            f"cannot quantize {checkpoint.location}: none of its weights can be {row.name}: "
            f"{next(iter(left_out.values()))}",
            "choose another format",
        )
    merged = {p for p in seen.merged if any(seen.patterns.get(name) == p for name in chosen)}
    tensors: dict[str, TensorInfo] = {}
    for name, info in _with_experts(checkpoint, seen, merged):
        parts = encoded_parts(info, row, casting.scale) if name in chosen else (info,)
        for made in parts:
            # a form may have another name for scales than the format
            part = made._replace(name=found.names.apply(found.names.undo(made.name)))
            if part.name in tensors or (part.name != name and part.name in checkpoint.tensors):
                raise BadCheckpoint(
                    f"cannot quantize tensor {quoted(name)}: it would get a {quoted(part.name)}, "
                    "and there is a tensor of that name"
                )
            tensors[part.name] = part
    quantized = replace(
        checkpoint,
        tensors=tensors,
        record=_record(checkpoint, found, merged) if merged else checkpoint.record,
        config={
            **_undescribed(checkpoint.config),
            SECTION: quantized_section(row, tensors.values()),
        },
        quant_config={},
    )
    try:
        described = detect(quantized, not merged)
    except BadCheckpoint:
        if not (casting.only or casting.skip):
            raise
        raise divided_experts(checkpoint.location, casting) from None
    return Quantized(quantized, described, left_out, tuple(sorted(merged)))


def _undescribed(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a config without its descriptions of quantized weights."""
    stale = [
        Edit(path, REMOVED)
        for path, value in config_members(config)
        if path[-1] in config_keys().quantization and isinstance(value, Mapping)
    ]
    undescribed: Mapping[str, Any] = edit_value(config, stale)
    return undescribed


def _check_not_quantized(checkpoint: Checkpoint) -> None:
    """Raise PlanRefused if there are quantized weights."""
    known = recognize(checkpoint, strict=False)
    stored = [(weight.codes.name, weight.format.name) for weight in known.weights.values()]
    stored += [(name, UNDESCRIBED) for name in known.unknown]
    if stored:
        name, stored_as = stored[0]
        raise PlanRefused(
            f"cannot quantize {checkpoint.location}: {len(stored):,} of its weights are quantized "
            f"already, such as {quoted(name)}, which is stored as {stored_as}",
            "add --dequantize bf16 to quantize their values",
        )


def _misfits(
    seen: QuantizableWeights, chosen: Iterable[str], row: EncodingRow
) -> Iterator[tuple[str, str]]:
    """Yield each chosen weight that the format cannot hold, with the reason.

    Raises PlanRefused if the weight is an expert's: quantizing only some of a layer is of no use.
    """
    for name in sorted(chosen) if row.is_whole else ():
        columns = seen.infos[name].shape[1]
        if columns % row.block[1]:
            reason = f"it has {columns:,} columns, and {row.name} has groups of {row.block[1]}"
            if name in seen.patterns:
                raise PlanRefused(
                    f"cannot quantize tensor {quoted(name)}: {reason}",
                    "choose another format, or leave out these weights with --except",
                )
            yield name, reason


def _with_experts(
    checkpoint: Checkpoint, seen: QuantizableWeights, merged: set[str]
) -> Iterator[tuple[str, TensorInfo]]:
    """Yield the tensors; those of the stacks `merged` are replaced by views of single experts."""
    for name, info in checkpoint.tensors.items():
        pattern = seen.pattern_of_merged.get(name)
        if pattern not in merged:
            yield name, info
        elif name in seen.merged[str(pattern)]:
            yield from ((view.name, view) for view in seen.merged[str(pattern)][name])


def _record(checkpoint: Checkpoint, found: Detected, merged: set[str]) -> Record:
    """Return the record of a checkpoint whose merged experts are seen one by one."""
    stacks = {
        stack.pattern: LayoutNames.of(
            one_by_one(found, stack) if stack.pattern in merged else stack.row,
            found.hub_layouts.get(stack.pattern),
        )
        for stack in found.stacks
    }
    layers = checkpoint.record.layers if checkpoint.record else None
    return Record(found.names.name, None, stacks, layers)
