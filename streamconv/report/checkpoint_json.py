"""A source checkpoint and its expert stacks as JSON fields."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from streamconv.checkpoint.not_carried_over import not_carried_over_notes
from streamconv.checkpoint.tensor_kinds import TensorKind, tensor_kinds
from streamconv.checkpoint.tensor_names import pattern_of
from streamconv.checkpoint.types import (
    Checkpoint,
    OtherFile,
    ReferenceCheckpoint,
    TensorInfo,
    UnlistedFile,
)
from streamconv.detection.detect import Detected
from streamconv.detection.kinds import count_notes, format_notes, kinds_of, name_notes
from streamconv.detection.stacks import Stack
from streamconv.quantization.describe import format_uses
from streamconv.quantization.recognize import recognize
from streamconv.report.schema import document


def inspection_fields(checkpoint: Checkpoint, found: Detected) -> dict[str, Any]:
    """Build the document of `inspect --json`."""
    kinds = [{"kind": kind.name, "says": kind.says} for kind in kinds_of(checkpoint)]
    fields = {
        **source_fields(checkpoint, found),
        "kinds": kinds,
        "number_formats": [
            {"format": use.format, "says": use.says, "weights": len(use.weights)}
            for use in format_uses(recognize(checkpoint, strict=False))
        ],
        "notes": list(inspection_notes(checkpoint, found)),
        "refusals": [
            {
                "stack": pattern and f"{pattern}experts",
                "why": refusal.message,
                "hint": refusal.hint or None,
                "defect": refusal.is_defect,
            }
            for pattern, refusal in found.refusals.items()
        ],
        "tensor_kinds": [kind_fields(k) for k in tensor_kinds(checkpoint.tensors.values())],
    }
    return document("inspection", fields)


def inspection_notes(checkpoint: Checkpoint, found: Detected) -> Iterator[str]:
    """Yield the notes on a checkpoint as sentences, apart from its kinds."""
    yield from format_notes(checkpoint)
    if not checkpoint.config:
        yield "there is no config.json, so the model type is unknown"
    yield from name_notes(found)
    yield from count_notes(checkpoint, found)
    yield from not_carried_over_notes(checkpoint, checkpoint.others)


def kind_fields(kind: TensorKind) -> dict[str, Any]:
    """Describe all tensors whose names differ only in numbers."""
    return {
        "pattern": kind.pattern,
        "tensors": kind.count,
        "dtypes": dict(kind.dtypes),
        "shapes": [{"shape": list(shape), "tensors": count} for shape, count in kind.shapes],
        "bytes": kind.nbytes,
    }


def source_fields(checkpoint: Checkpoint, found: Detected) -> dict[str, Any]:
    """Describe a source: its location, its detected family, form and stacks, its sizes in bytes."""
    stacked = {info.name for stack in found.stacks for info in _stored(stack)}
    others = [info for info in checkpoint.tensors.values() if info.name not in stacked]
    return {
        "location": checkpoint.location,
        "revision": checkpoint.revision,
        "model_type": found.model_type or None,
        "family": found.model_type if found.family else None,
        "form": found.form,
        "names": found.names.name,
        "format": checkpoint.format,
        "layers": checkpoint.record.layers if checkpoint.record else None,
        "template": _template_fields(checkpoint.template),
        "files": len(checkpoint.files),
        "file_bytes": sum(file.size for file in checkpoint.files),
        "tensors": len(checkpoint.tensors),
        "tensor_bytes": checkpoint.total_bytes,
        "dtypes": dict(sorted(Counter(i.dtype for i in checkpoint.tensors.values()).items())),
        "stacks": [stack_fields(stack) for stack in found.stacks],
        "experts_not_found": list(found.not_found),
        "unknown_names": list(dict.fromkeys(map(pattern_of, found.unknown_names))),
        "other_tensors": len(others),
        "other_tensor_bytes": sum(info.nbytes for info in others),
        "other_files": [file_fields(other) for other in checkpoint.others],
        "unlisted": [unlisted_fields(file) for file in checkpoint.unlisted],
        "added": list(checkpoint.added),
        "unindexed": list(checkpoint.unindexed),
        "user_renames": [
            {"rename": rename.text, "names": rename.count} for rename in checkpoint.renames
        ],
        "contradictions": list(checkpoint.contradictions),
    }


def stack_fields(stack: Stack) -> dict[str, Any]:
    """Describe an expert stack: its layout, sizes, and the shapes in its first layer."""
    tensors = stack.first
    return {
        "stack": f"{stack.pattern}experts",
        "layout": stack.row.layout.name,
        "layers": len(stack.modules),
        "experts": stack.sizes["e"],
        "hidden": stack.sizes["h"],
        "intermediate": stack.sizes["i"],
        "dtype": "/".join(dict.fromkeys(infos[0].stored[0].dtype for infos in tensors.values())),
        "shapes": {weight: list(infos[0].shape) for weight, infos in tensors.items()},
        "tensors": sum(len(infos) for m in stack.modules for infos in m.tensors.values()),
        "bytes": sum(info.nbytes for info in _stored(stack)),
    }


def _stored(stack: Stack) -> Iterator[TensorInfo]:
    """Yield every stored tensor of a stack; of a cast, all tensors that it reads."""
    for module in stack.modules:
        for infos in module.tensors.values():
            for info in infos:
                yield from info.stored


def file_fields(other: OtherFile) -> dict[str, Any]:
    """Describe a file without tensors; `left_behind` is the reason if it is not copied."""
    return {"name": other.name, "bytes": other.size, "left_behind": other.skip_reason or None}


def unlisted_fields(file: UnlistedFile) -> dict[str, Any]:
    """Describe a file of tensors that the index leaves out."""
    return {
        "name": file.name,
        "tensors": [info.name for info in file.tensors],
        "tensor_bytes": file.nbytes,
    }


def _template_fields(template: ReferenceCheckpoint | None) -> dict[str, Any] | None:
    if template is None:
        return None
    return {
        "location": template.location,
        "tensors": len(template.filled),
        "tensor_bytes": template.nbytes,
        "unknown": list(template.unknown),
    }
