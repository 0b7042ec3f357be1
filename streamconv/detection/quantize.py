"""Describe a checkpoint as if the weights that `--quantize` selects were stored as codes.

Each of them is replaced by the tensors of its number format, which are made from it. The result is
planned like any quantized checkpoint.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from streamconv.catalog.config_keys import config_keys
from streamconv.catalog.encodings import EncodingRow, encoding_row
from streamconv.checkpoint.casting import FLOATS, Casting
from streamconv.checkpoint.config import config_members
from streamconv.checkpoint.layout_record import LayoutNames, Record
from streamconv.checkpoint.types import Checkpoint, TensorInfo
from streamconv.detection.detect import Detected
from streamconv.detection.expert_views import (
    expert_views,
    is_matrix,
    is_one_by_one,
    one_by_one,
)
from streamconv.detection.refusals import divided_experts
from streamconv.errors import BadCheckpoint, PlanRefused, quoted
from streamconv.formats.json_edit import REMOVED, Edit, edit_value
from streamconv.quantization.encoded_parts import encoded_parts
from streamconv.quantization.number_format import UNDESCRIBED
from streamconv.quantization.quantized_config import SECTION, quantized_section, unquantized_kind
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
    seen = _Weights(checkpoint, found)
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


class _Weights:
    """The weights that can be quantized, with merged experts seen one by one."""

    def __init__(self, checkpoint: Checkpoint, found: Detected) -> None:
        self.merged: dict[str, dict[str, list[TensorInfo]]] = {}
        """Views of merged experts, by the pattern of the stack, then by the tensor they replace."""
        self.patterns: dict[str, str] = {}
        """The pattern of the stack that each matrix of an expert is in, by the matrix's name."""
        self.infos: dict[str, TensorInfo] = {}
        """All matrices, by name."""
        self.hub_names = {info.name: hub_name for hub_name, info in found.hub_names.items()}
        self.default: set[str] = set()
        """Names of the matrices that are quantized unless the user chooses others."""
        self.pattern_of_merged: dict[str, str] = {}
        """The pattern of the stack of each tensor that holds several experts, by its name."""
        for stack in found.stacks:
            for module in stack.modules:
                names = [i.name for infos in module.tensors.values() for i in infos]
                if is_one_by_one(stack):
                    weights = [w for w in module.tensors if is_matrix(w)]
                    matrices = [i for weight in weights for i in module.tensors[weight]]
                else:
                    views = list(expert_views(found, stack, module))
                    self.merged.setdefault(stack.pattern, {})[names[0]] = views
                    self.pattern_of_merged |= dict.fromkeys(names, stack.pattern)
                    matrices = [info for info in views if len(info.shape) == 2]
                self.patterns |= {info.name: stack.pattern for info in matrices}
                self._add(matrices, is_default=True)
        paths = tuple(each.path for each in found.layer_lists)
        for hub_name, info in found.hub_names.items():
            if info.name not in self.pattern_of_merged and info.name not in self.infos:
                in_layer = hub_name.startswith(paths) and hub_name.endswith(".weight")
                is_linear = in_layer and unquantized_kind(hub_name, found.family) is None
                self._add([info], is_default=is_linear)

    def _add(self, infos: Iterable[TensorInfo], *, is_default: bool) -> None:
        for info in infos:
            if len(info.shape) == 2 and info.dtype in FLOATS and info.elements:
                self.infos[info.name] = info
                if is_default:
                    self.default.add(info.name)

    def choose(self, casting: Casting, location: str) -> set[str]:
        """Return the names of the weights that are quantized. Raises PlanRefused."""
        chosen = set(self.default)
        if casting.only:
            chosen = set()
            for pattern in casting.only:
                wanted = self._matching(pattern, self.default)
                chosen |= wanted or self._matching(pattern, self.infos.keys())
                if not wanted and not self._matching(pattern, self.infos.keys()):
                    raise _unknown("--only", pattern)
        for pattern in casting.skip:
            skipped = self._matching(pattern, self.infos.keys())
            if not skipped:
                raise _unknown("--except", pattern)
            chosen -= skipped
        if not chosen:
            why = "holds no experts, and no linear layers of a list of layers"
            if casting.only or casting.skip:
                why = f"--only and --except leave none of its {len(self.default):,} weights"
            raise PlanRefused(
                f"cannot quantize {location}: {why}",
                "choose other names, or leave out --quantize",
            )
        return chosen

    def _matching(self, pattern: str, names: Iterable[str]) -> set[str]:
        return {
            name
            for name in names
            if fnmatchcase(name, pattern) or fnmatchcase(self.hub_names.get(name, name), pattern)
        }


def _unknown(option: str, pattern: str) -> PlanRefused:
    return PlanRefused(
        f"cannot apply {option} {quoted(pattern)}: no matrix has that name",
        "write a name with * for any text, as in --only '*.experts.*'",
    )


def _misfits(seen: _Weights, chosen: Iterable[str], row: EncodingRow) -> Iterator[tuple[str, str]]:
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
    checkpoint: Checkpoint, seen: _Weights, merged: set[str]
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
