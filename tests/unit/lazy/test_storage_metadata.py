"""The metadata that planners of torch read, and the boxes that they ask for."""

import pytest
import torch
from folders import qwen_tensors, tensor
from fused_by_hand import CONFIG
from memory_source import MemorySource
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    MetadataIndex,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadItemType, ReadItem

from streamconv.catalog.catalog import default_catalog
from streamconv.errors import BadCheckpoint
from streamconv.lazy.arrays import arrays_of
from streamconv.lazy.box_requests import box_requests
from streamconv.lazy.checkpoint import LazyCheckpoint
from streamconv.lazy.filling import stored_box
from streamconv.lazy.reading import SliceReader
from streamconv.lazy.storage_metadata import Keys
from streamconv.planning.build import build_outputs
from streamconv.sources.wrappers.base import SourceWrapper

GATE_UP = "model.layers.0.mlp.experts.gate_up_proj"


@pytest.fixture(scope="module")
def lazy() -> LazyCheckpoint:
    """Three experts of one layer, fused, and a tensor of codes of four bits."""
    tensors = qwen_tensors(1)
    tensors["model.packed"] = tensor("model.packed", "F4", 2, 8)
    memory = MemorySource(tensors, config=CONFIG)
    source, arrays = SourceWrapper(memory), arrays_of("pt")
    outputs = build_outputs(memory.checkpoint, default_catalog(), "fused", {})
    reader = SliceReader(lambda: source, source, arrays)
    return LazyCheckpoint(memory.checkpoint, outputs, reader, arrays, is_torch=True)


def test_experts_are_chunks(lazy: LazyCheckpoint) -> None:
    entry = Keys(lazy, "model.")[f"model.{GATE_UP}"]
    assert isinstance(entry, TensorStorageMetadata)
    assert entry.properties.dtype == torch.bfloat16
    chunks = [(tuple(chunk.offsets), tuple(chunk.sizes)) for chunk in entry.chunks]
    assert chunks == [((k, 0, 0), (1, 12, 4)) for k in range(3)]


def test_a_key_without_a_tensor_is_bytes(lazy: LazyCheckpoint) -> None:
    """So that a planner asks for it; it is no tensor nevertheless."""
    keys = Keys(lazy, "model.")
    assert "optimizer.step" in keys
    for key in ("optimizer.step", GATE_UP):
        assert isinstance(keys[key], BytesStorageMetadata)
        with pytest.raises(KeyError):
            keys.tensor(key)
    assert keys.tensor(f"model.{GATE_UP}").name == GATE_UP
    assert len(keys.facts()) == len(list(lazy))


def test_a_shape_that_differs_ends_the_planner(lazy: LazyCheckpoint) -> None:
    """With an error that says what to do, at the moment when it compares them."""
    entry = Keys(lazy, "")[GATE_UP]
    assert isinstance(entry, TensorStorageMetadata)
    assert not (entry.size != torch.Size((3, 12, 4)))  # noqa: SIM202 - that is what torch asks
    with pytest.raises(BadCheckpoint, match=r"its shape is \[3, 12, 4\] in the checkpoint, but"):
        _ = entry.size != torch.Size((3, 4, 12))
    assert entry.size.numel() == 144


def test_two_codes_are_one_element(lazy: LazyCheckpoint) -> None:
    entry = Keys(lazy, "")["model.packed"]
    assert isinstance(entry, TensorStorageMetadata)
    assert tuple(entry.size) == (2, 4)
    assert stored_box(lazy["model.packed"], [1, 1], [1, 3]) == [(1, 2), (2, 8)]
    assert stored_box(lazy[GATE_UP], [1, 2, 0], [1, 3, 4]) == [(1, 2), (2, 5), (0, 4)]


def item(key: str, chunk: tuple[int, ...], inside: tuple[int, ...]) -> ReadItem:
    """A request of a planner: a place in a chunk, of one row of four elements."""
    lengths = torch.Size((*(1 for _ in inside[1:]), 4))
    index = MetadataIndex(key, torch.Size(chunk))
    return ReadItem(
        LoadItemType.TENSOR, index, torch.Size(inside), index, torch.Size(inside), lengths
    )


def test_a_box_is_asked_for_once(lazy: LazyCheckpoint) -> None:
    """By all items that want the same elements; offsets in a chunk count from the tensor's."""
    items = [
        item(GATE_UP, (1, 0, 0), (0, 2, 0)),
        item(GATE_UP, (0, 0, 0), (0, 2, 0)),
        item(GATE_UP, (0, 0, 0), (1, 2, 0)),
    ]
    found = list(box_requests(items, Keys(lazy, "")))
    assert [(request.box, len(request.items)) for request in found] == [
        (((1, 2), (2, 3), (0, 4)), 2),
        (((0, 1), (2, 3), (0, 4)), 1),
    ]
    assert {request.tensor.name for request in found} == {GATE_UP}
