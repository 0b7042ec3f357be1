"""Fill existing tensors of torch from lazy tensors."""

from collections.abc import Sequence

import torch

from streamconv.errors import UsageError, quoted
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
