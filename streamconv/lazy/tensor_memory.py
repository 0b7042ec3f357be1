"""The memory of a tensor of torch: how much its elements take, and whether it is there."""

import torch


def lacks_memory(target: torch.Tensor) -> bool:
    """Return True if the storage is smaller than the elements, as `resize_(0)` leaves it."""
    if is_wrapper(target) or not target.numel() or target._is_zerotensor():
        return False
    end = target.storage_offset() * target.element_size() + extent(target)
    return target.untyped_storage().nbytes() < end


def is_wrapper(target: torch.Tensor) -> bool:
    """Return True for a subclass that may keep its elements in other tensors."""
    return type(target).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__


def extent(target: torch.Tensor) -> int:
    """Return the bytes from the first element to the end of the last one."""
    last = sum((n - 1) * stride for n, stride in zip(target.shape, target.stride(), strict=True))
    return (last + 1) * target.element_size()
