"""The boxes of lazy tensors that a planner of torch.distributed.checkpoint asks for."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch.distributed.checkpoint.planner import LoadPlanner, ReadItem

from streamconv.lazy.filling import check_fillable, stored_box
from streamconv.lazy.indexing import Span
from streamconv.lazy.storage_metadata import Keys
from streamconv.lazy.tensor import LazyTensor
from streamconv.system.read_only_memory import ReadOnlyMemory

Box = tuple[Span, ...]
"""The range on each dimension."""


@dataclass(frozen=True, slots=True)
class BoxRequest:
    """A box that a planner asks for."""

    tensor: LazyTensor
    box: Box
    items: tuple[ReadItem, ...]
    """Where it goes: to several places if weights are tied."""


def box_requests(items: Iterable[ReadItem], keys: Keys) -> Iterator[BoxRequest]:
    """Yield a request for each box of each tensor that a planner asks for.

    Args:
        items: The items of the plan.
        keys: The metadata of the checkpoint.
    """
    tensors: dict[str, LazyTensor] = {}
    same: dict[tuple[str, Box], list[ReadItem]] = {}
    for item in items:
        key = item.storage_index.fqn
        if key not in tensors:
            tensors[key] = keys.tensor(key)
        first = item.storage_index.offset or [0] * len(item.lengths)
        begins = [a + b for a, b in zip(first, item.storage_offsets, strict=True)]
        box = tuple(stored_box(tensors[key], begins, item.lengths))
        same.setdefault((tensors[key].name, box), []).append(item)
    for (_, box), asked in same.items():
        yield BoxRequest(tensors[asked[0].storage_index.fqn], box, tuple(asked))


def check_targets(requests: Iterable[BoxRequest], planner: LoadPlanner) -> None:
    """Raise UsageError if a tensor of the state dict cannot be filled, before any is.

    A planner that is not made from torch's own may have no tensors to look up yet. Then each is
    checked only when it is filled.
    """
    look_up = getattr(planner, "lookup_tensor", None)
    if look_up is None:
        return
    read_only = ReadOnlyMemory()
    for request in requests:
        for item in request.items:
            target = look_up(item.dest_index)
            check_fillable(item.dest_index.fqn, target, request.tensor.dtype, read_only)
