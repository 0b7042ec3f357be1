"""A source checkpoint and its expert stacks as JSON fields."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from streamconv.checkpoint.types import (
    Checkpoint,
    OtherFile,
    ReferenceCheckpoint,
    TensorInfo,
    UnlistedFile,
)
from streamconv.detection.detect import Detected
from streamconv.detection.stacks import Stack
from streamconv.report.schema import document


def inspection_fields(checkpoint: Checkpoint, found: Detected) -> dict[str, Any]:
    """Build the document of `inspect --json`."""
    return document("inspection", source_fields(checkpoint, found))


def source_fields(checkpoint: Checkpoint, found: Detected) -> dict[str, Any]:
    """Describe a source: where it is, what it was detected as, and its sizes in bytes."""
    stacked = {info.name for stack in found.stacks for info in _stored(stack)}
    others = [info for info in checkpoint.tensors.values() if info.name not in stacked]
    return {
        "location": checkpoint.location,
        "revision": checkpoint.revision,
        "model_type": found.model_type or None,
        "family": found.family.name if found.family else None,
        "form": found.form,
        "names": found.names.name,
        "format": checkpoint.format,
        "layers": checkpoint.record.layers if checkpoint.record else None,
        "template": _template_fields(checkpoint.template),
        "files": len(checkpoint.files),
        "file_bytes": sum(file.size for file in checkpoint.files),
        "tensors": len(checkpoint.tensors),
        "tensor_bytes": checkpoint.total_bytes,
        "dtypes": dict(Counter(info.dtype for info in checkpoint.tensors.values())),
        "stacks": [stack_fields(stack) for stack in found.stacks],
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
    """Yield every stored tensor of a stack, the inputs of casts one by one."""
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
