"""Fill existing tensors of torch from lazy tensors."""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed.tensor import DTensor

from streamconv.errors import UsageError, quoted
from streamconv.formats.safetensors import DTYPE_BITS
from streamconv.lazy.arrays import check_no_fakes
from streamconv.lazy.indexing import Span
from streamconv.lazy.tensor import LazyTensor
from streamconv.lazy.tensor_memory import extent, is_wrapper, lacks_memory
from streamconv.system.read_only_memory import ReadOnlyMemory


def fill_tensor(target: torch.Tensor, lazy: LazyTensor, box: Sequence[tuple[int, int]]) -> None:
    """Read a box of a lazy tensor into a tensor of torch.

    Args:
        target: Has the shape of the box. It may have another dtype, to which `copy_` casts, may be
            on any device, and need not be contiguous. If it is contiguous on the CPU and has the
            dtype of `lazy`, the bytes are read straight into its memory.
        lazy: The tensor to read.
        box: The range on each dimension of `lazy`.

    Raises:
        UsageError: No tensor of its kind can be filled, see `check_fillable`.
        UsageError, SourceChanged, IOFailed: As for indexing a lazy tensor.
    """
    check_fillable(lazy.name, target, lazy.dtype)
    target = target.detach()
    is_plain = type(target) is torch.Tensor and target.device.type == "cpu"
    is_plain = is_plain and not target.is_conj() and not target.is_neg()
    if is_plain and target.is_contiguous() and target.dtype == lazy.dtype:
        lazy.read_into(box, target.reshape(-1).view(torch.uint8).numpy().data)
        # so that autograd knows that its saved values are gone
        torch.autograd.graph.increment_version(target)
        return
    copy_into(target, lazy.read_box(box))


def copy_into(target: torch.Tensor, made: torch.Tensor) -> None:
    """Copy a tensor into one that needs no gradient, also if that was made for inference alone."""
    with torch.inference_mode() if target.is_inference() else nullcontext():
        target.copy_(made)


def check_fillable(
    name: str, target: torch.Tensor, dtype: torch.dtype, read_only: ReadOnlyMemory | None = None
) -> None:
    """Raise UsageError if a tensor cannot be filled, or not with all that is in the checkpoint.

    Nor under a mode of torch in which tensors have no content.

    Args:
        name: Its name in the module.
        target: The tensor. Of a DTensor, the local shard counts.
        dtype: The dtype of the elements that it is filled with.
        read_only: The memory that cannot be written; None if it was checked before.
    """
    check_no_fakes()
    local = target.to_local() if isinstance(target, DTensor) else target
    if kind := _kind(local) or _kind_of_memory(local, read_only):
        raise UsageError(
            f"cannot fill {quoted(name)}: it is {kind}",
            "give a dense tensor whose elements have memory of their own",
        )
    if why := _why_not_cast(dtype, target.dtype):
        raise UsageError(
            f"cannot fill {quoted(name)}: it is {_word(target.dtype)}, and {why}",
            "make the module with the dtypes of the checkpoint",
        )


@cache
def _why_not_cast(dtype: torch.dtype, target: torch.dtype) -> str:
    """Return why `copy_` would not keep what elements of a dtype are; empty text if it does."""
    if not torch.can_cast(dtype, target):
        return f"does not hold what the checkpoint has, {_word(dtype)}"
    try:
        torch.empty((), dtype=dtype, device="cpu").to(target)
    except (RuntimeError, NotImplementedError):
        return f"torch makes none of {_word(dtype)}"
    return ""


def _kind(target: torch.Tensor) -> str:
    """Return what a tensor is if torch keeps no plain elements for it; else empty text."""
    if torch.nn.parameter.is_lazy(target):
        return "a parameter without a shape, which its module makes when it is called"
    if isinstance(target, FakeTensor):
        return "a fake tensor"
    if target.is_nested or target.is_quantized:
        return "a nested tensor" if target.is_nested else "a quantized tensor of torch"
    if target.layout is not torch.strided:
        return f"a tensor of the layout {_word(target.layout)}"
    return "a tensor of zeros without memory" if target._is_zerotensor() else ""


def _kind_of_memory(target: torch.Tensor, read_only: ReadOnlyMemory | None) -> str:
    """Return what a tensor is if its elements cannot be written one by one; else empty text."""
    if target.is_meta or not target.numel():  # one on meta is replaced by a new one
        return ""
    if _has_overlap(target):
        return "a tensor of which several elements share memory"
    if lacks_memory(target):
        return "a tensor whose memory was freed"
    if read_only is not None and _is_read_only(target, read_only):
        return "in memory that cannot be written, such as a map of a file"
    return ""


def _has_overlap(target: torch.Tensor) -> bool:
    """Return True if several elements are in one place, by the strides."""
    reach = 0
    for stride, size in sorted(zip(target.stride(), target.shape, strict=True)):
        if size > 1 and stride <= reach:
            return True
        reach += (size - 1) * stride
    return False


def _is_read_only(target: torch.Tensor, read_only: ReadOnlyMemory) -> bool:
    if target.device.type != "cpu" or is_wrapper(target):
        return False
    return read_only.has(target.data_ptr(), extent(target))


def _word(kind: object) -> str:
    return str(kind).removeprefix("torch.")


def stored_box(tensor: LazyTensor, offset: Sequence[int], lengths: Sequence[int]) -> list[Span]:
    """Return a box of a tensor in its own elements, of which some are smaller than a byte.

    Args:
        tensor: The tensor.
        offset: Where the box begins on each dimension, in elements of torch, which are whole bytes.
        lengths: Its lengths, in elements of torch.
    """
    box = [(begin, begin + length) for begin, length in zip(offset, lengths, strict=True)]
    if box and DTYPE_BITS[tensor.get_dtype()] < 8:
        packed = 8 // DTYPE_BITS[tensor.get_dtype()]
        box[-1] = box[-1][0] * packed, box[-1][1] * packed
    return box
