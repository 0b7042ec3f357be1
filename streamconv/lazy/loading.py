"""Fill a module of torch from an open checkpoint, parameter by parameter."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.tensor import DTensor, Replicate, Shard

from streamconv.errors import BadCheckpoint, UsageError, quoted, wrong_type
from streamconv.lazy.arrays import array_shape
from streamconv.lazy.checkpoint import LazyCheckpoint
from streamconv.lazy.filling import check_fillable, fill_tensor, stored_box
from streamconv.lazy.indexing import Span
from streamconv.lazy.tensor import LazyTensor
from streamconv.system.read_only_memory import ReadOnlyMemory


@dataclass(frozen=True, slots=True)
class Loaded:
    """The names that only a module or only a checkpoint has."""

    missing_keys: tuple[str, ...]
    """Keys of the module that are not in the checkpoint."""
    unexpected_keys: tuple[str, ...]
    """Keys of the checkpoint that are not in the module."""

    def __repr__(self) -> str:
        missing, unexpected = len(self.missing_keys), len(self.unexpected_keys)
        return f"<Loaded: {missing:,} missing and {unexpected:,} unexpected keys>"


def check_module(module: object) -> None:
    """Raise TypeError if `module` is not a module of torch."""
    if not isinstance(module, torch.nn.Module):
        raise wrong_type("load", "module", "torch.nn.Module", module)


def load_module(module: torch.nn.Module, lazy: LazyCheckpoint, *, strict: bool) -> Loaded:
    """Fill a module.

    Args:
        module: Its parameters and buffers may be on meta; they are replaced then.
        lazy: The checkpoint, in the layout that the module has.
        strict: True to refuse missing and unexpected names.

    Raises:
        BadCheckpoint: Names or shapes do not agree. Nothing of the module is changed.
        UsageError: A buffer on meta is in no checkpoint, or a tensor cannot be filled. Nothing of
            the module is changed.
        StreamconvError: Reading failed.
    """
    targets = {
        name: target
        for name, target in module.state_dict(keep_vars=True).items()
        if isinstance(target, torch.Tensor)
    }
    tensors = {name: lazy[name] for name in targets if name in lazy}
    _check_own(module, {name: targets[name] for name in tensors})
    read_only = ReadOnlyMemory()
    for name, tensor in tensors.items():
        check_fillable(name, targets[name], tensor.dtype, read_only)
    found = {id(targets[name]) for name in tensors}
    missing = tuple(name for name, target in targets.items() if id(target) not in found)
    unexpected = tuple(name for name in lazy if name not in targets)
    mismatched = [
        f"size mismatch for {quoted(name)}: copying a param with shape {list(shape)} "
        f"from checkpoint, the shape in current model is {list(targets[name].shape)}."
        for name, tensor in tensors.items()
        if tuple(targets[name].shape) != (shape := array_shape(tensor.get_dtype(), tensor.shape))
    ]
    if strict:
        _add(mismatched, "Unexpected", unexpected)
        _add(mismatched, "Missing", missing)
    if mismatched:
        raise BadCheckpoint(
            f"cannot load the checkpoint into {type(module).__name__}: {' '.join(mismatched)}",
            "name the layout of the module with `to`",
        )
    _check_buffers(module, targets)
    boxes = {name: _own_box(name, targets[name], tensor) for name, tensor in tensors.items()}
    parameters = {id(each): each.requires_grad for each in module.parameters() if each.is_meta}
    filled: dict[int, torch.Tensor] = {}
    with torch.no_grad():
        for name, box in boxes.items():
            target = targets[name]
            if id(target) not in filled:
                filled[id(target)] = _filled(tensors[name], target, box)
        made = {
            key: torch.nn.Parameter(tensor, requires_grad=parameters[key])
            if key in parameters
            else tensor
            for key, tensor in filled.items()
        }
        for name, target in targets.items():
            if target.is_meta and id(target) in made:
                _replace(module, name, made[id(target)])
    return Loaded(missing, unexpected)


def _add(mismatched: list[str], kind: str, names: Sequence[str]) -> None:
    """Insert a line that names the keys, as `load_state_dict` words it, before all others."""
    if names:
        shown = ", ".join(f'"{quoted(name)}"' for name in names)
        mismatched.insert(0, f"{kind} key(s) in state_dict: {shown}.")


def _check_own(module: torch.nn.Module, targets: Mapping[str, torch.Tensor]) -> None:
    """Refuse what hooks of a state dict make of tensors, if filling it would not fill the module.

    Raises UsageError.
    """
    own: dict[str, torch.Tensor] = dict(module.named_buffers(remove_duplicate=False))
    own |= module.named_parameters(remove_duplicate=False)
    memories = {_memory_of(tensor) for tensor in own.values() if not tensor.is_meta}
    for name, target in targets.items():
        if own.get(name) is target or (not target.is_meta and _memory_of(target) in memories):
            continue
        is_copy = all(target is not tensor for tensor in own.values())
        why = "is a copy of its tensor" if is_copy else "is on meta under another name than its own"
        raise UsageError(
            f"cannot fill {quoted(name)}: what the state_dict of the module has there {why}",
            "load into the module before it is wrapped",
        )


def _memory_of(tensor: torch.Tensor) -> object:
    """Return what is equal for tensors in the same memory."""
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    try:
        return local.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError, ValueError):  # such as sparse ones
        return id(tensor)


def _check_buffers(module: torch.nn.Module, targets: dict[str, torch.Tensor]) -> None:
    """Refuse buffers on meta that no checkpoint has."""
    left = [n for n, buffer in module.named_buffers() if buffer.is_meta and n not in targets]
    if left:
        raise UsageError(
            f"cannot fill the buffer {quoted(left[0])}: it is on meta, and no checkpoint has it",
            "make the modules of such buffers again outside of meta, before loading",
        )


def _own_box(name: str, target: torch.Tensor, lazy: LazyTensor) -> list[Span]:
    """Return the range of a lazy tensor that this process has, on each dimension."""
    box = _own_share(name, target)
    return stored_box(lazy, [begin for begin, _ in box], [end - begin for begin, end in box])


def _own_share(name: str, target: torch.Tensor) -> list[Span]:
    """Return the range of a tensor that this process has, on each dimension."""
    box = [(0, extent) for extent in target.shape]
    if not isinstance(target, DTensor):
        return box
    mesh = target.device_mesh
    coordinate = mesh.get_coordinate()
    for number, placement in enumerate(target.placements):
        if type(placement) is Shard and coordinate is not None:
            begin, end = box[placement.dim]
            share = -(-(end - begin) // mesh.size(number))
            first = min(begin + coordinate[number] * share, end)
            box[placement.dim] = first, min(first + share, end)
        elif type(placement) is not Replicate:
            raise UsageError(f"cannot fill {quoted(name)}: it is divided as {placement}")
    return box


def _filled(lazy: LazyTensor, target: torch.Tensor, box: Sequence[Span]) -> torch.Tensor:
    """Return the tensor for a parameter or buffer, filled: a new one if it is on meta."""
    local = target.to_local() if isinstance(target, DTensor) else target
    if local.is_meta:
        made: torch.Tensor = lazy.read_box(box).to(local.dtype)
        if isinstance(target, DTensor):
            made = DTensor.from_local(
                made,
                target.device_mesh,
                target.placements,
                run_check=False,
                shape=target.shape,
                stride=target.stride(),
            )
        return made
    fill_tensor(local, lazy, box)
    return target


def _replace(module: torch.nn.Module, name: str, made: torch.Tensor) -> None:
    """Put a tensor in the place of one on meta."""
    path, _, leaf = name.rpartition(".")
    owner: Any = module.get_submodule(path)
    own = owner._parameters if leaf in owner._parameters else owner._buffers
    own[leaf] = made
