"""Fill existing tensors of torch from lazy tensors."""

from collections.abc import Sequence

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed.tensor import DTensor

from streamconv.errors import UsageError, quoted
from streamconv.formats.safetensors import DTYPE_BITS
from streamconv.lazy.indexing import Span
from streamconv.lazy.tensor import LazyTensor

OVERLAP = "refers to a single memory location"
"""Words of torch if several elements share memory. Other errors may be a lack of memory."""


def fill_tensor(target: torch.Tensor, lazy: LazyTensor, box: Sequence[tuple[int, int]]) -> None:
    """Read a box of a lazy tensor into a tensor of torch.

    Args:
        target: Has the shape of the box. It may have another dtype, to which `copy_` casts, may be
            on any device, and need not be contiguous. If it is contiguous on the CPU and has the
            dtype of `lazy`, the bytes are read straight into its memory.
        lazy: The tensor to read.
        box: The range on each dimension of `lazy`.

    Raises:
        UsageError: torch does not copy to such a tensor, as several elements share memory.
        UsageError, SourceChanged, IOFailed: As for indexing a lazy tensor.
    """
    target = target.detach()
    is_plain = type(target) is torch.Tensor and target.device.type == "cpu"
    is_plain = is_plain and not target.is_conj() and not target.is_neg()
    if is_plain and target.is_contiguous() and target.dtype == lazy.dtype:
        lazy.read_into(box, target.reshape(-1).view(torch.uint8).numpy().data)
    else:
        made = lazy.read_box(box)
        try:
            target.copy_(made)
        except RuntimeError as error:
            if OVERLAP not in str(error):
                raise
            reason = quoted(str(error).partition("\n")[0])
            raise UsageError(
                f"cannot fill a tensor with {quoted(lazy.name)}: {reason}",
                "give a tensor whose elements have memory of their own",
            ) from error


def check_fillable(name: str, target: torch.Tensor, dtype: torch.dtype) -> None:
    """Raise UsageError if no element of a tensor can be filled.

    Args:
        name: Its name in the module.
        target: The tensor.
        dtype: The dtype of the elements that it is filled with.
    """
    kind = "" if isinstance(target, DTensor) else _kind(target)
    if kind:
        raise UsageError(
            f"cannot fill {quoted(name)}: it is {kind}",
            "give a dense tensor whose elements have memory of their own",
        )
    try:
        torch.empty((), dtype=dtype).to(target.dtype)
    except (RuntimeError, NotImplementedError):
        raise UsageError(
            f"cannot fill {quoted(name)}: it is {_word(target.dtype)}, and torch makes none of "
            f"{_word(dtype)}",
            "make the module with the dtypes of the checkpoint",
        ) from None


def _kind(target: torch.Tensor) -> str:
    """Return what a tensor is if it has no elements of its own in memory; else empty text."""
    if torch.nn.parameter.is_lazy(target):
        return "a parameter without a shape, which its module makes when it is called"
    if isinstance(target, FakeTensor):
        return "a fake tensor"
    if target.is_nested or target.is_quantized:
        return "a nested tensor" if target.is_nested else "a quantized tensor of torch"
    if target.layout is not torch.strided:
        return f"a tensor of the layout {_word(target.layout)}"
    if target._is_zerotensor():
        return "a tensor of zeros without memory"
    return "a tensor of which several elements share memory" if _has_overlap(target) else ""


def _has_overlap(target: torch.Tensor) -> bool:
    """Return True if torch does not copy to a tensor. One on meta is replaced by a new one."""
    return not target.is_meta and torch._debug_has_internal_overlap(target) == 1


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
