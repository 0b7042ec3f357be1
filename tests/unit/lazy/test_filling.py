"""Tensors of torch are filled from a lazy one, whatever their dtype and strides."""

import pytest
import torch
from folders import qwen_tensors
from fused_by_hand import CONFIG
from memory_source import MemorySource

from streamconv.catalog.catalog import default_catalog
from streamconv.errors import UsageError
from streamconv.lazy.arrays import arrays_of
from streamconv.lazy.checkpoint import LazyCheckpoint
from streamconv.lazy.filling import fill_tensor
from streamconv.lazy.reading import SliceReader
from streamconv.lazy.tensor import LazyTensor
from streamconv.planning.build import build_outputs
from streamconv.sources.wrappers.base import SourceWrapper

NAME = "model.layers.0.mlp.experts.1.up_proj.weight"
BOX = [(1, 5), (0, 3)]


@pytest.fixture
def lazy(monkeypatch: pytest.MonkeyPatch) -> LazyTensor:
    """A tensor `[6, 4]` of bfloat16."""
    memory = MemorySource(qwen_tensors(1), config=CONFIG)
    source, arrays = SourceWrapper(memory), arrays_of("pt")
    outputs = build_outputs(memory.checkpoint, default_catalog(), None, {})
    reader = SliceReader(lambda: source, source, arrays)
    return LazyCheckpoint(memory.checkpoint, outputs, reader, arrays, is_torch=True)[NAME]


def expected() -> torch.Tensor:
    _, shape, data = qwen_tensors(1)[NAME]
    return torch.frombuffer(bytearray(data), dtype=torch.bfloat16).reshape(shape)[1:5, 0:3]


@pytest.mark.parametrize(
    "target",
    [
        torch.zeros(4, 3, dtype=torch.bfloat16),
        torch.zeros(3, 4, dtype=torch.bfloat16).T,
        torch.zeros(4, 3, dtype=torch.float32),
        torch.nn.Parameter(torch.zeros(4, 3, dtype=torch.bfloat16)),
    ],
    ids=["plain", "transposed", "cast", "parameter"],
)
def test_a_tensor_is_filled(lazy: LazyTensor, target: torch.Tensor) -> None:
    fill_tensor(target, lazy, BOX)
    wanted = expected().to(target.dtype)
    bits = (each.detach().contiguous().view(torch.uint8) for each in (target, wanted))
    assert torch.equal(*bits)


def test_bytes_go_straight_into_memory_that_is_fit_for_them(
    lazy: LazyTensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No array is made for them first."""
    monkeypatch.setattr(LazyTensor, "read_box", lambda *_: pytest.fail("an array is made"))
    fill_tensor(torch.zeros(4, 3, dtype=torch.bfloat16), lazy, BOX)


def test_memory_of_another_size(lazy: LazyTensor) -> None:
    with pytest.raises(UsageError, match=r"cannot read 24 bytes of .* into 16 bytes of memory"):
        fill_tensor(torch.zeros(4, 2, dtype=torch.bfloat16), lazy, BOX)


def test_elements_that_share_memory_cannot_be_filled(lazy: LazyTensor) -> None:
    shared = torch.zeros(4, 1, dtype=torch.bfloat16).expand(4, 3)
    with pytest.raises(
        UsageError, match=r"cannot fill model.*: it is .* several elements share mem"
    ):
        fill_tensor(shared, lazy, BOX)


def test_other_errors_of_torch_stay(lazy: LazyTensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as one of an accelerator whose memory is full: the tensor is not at fault."""

    def copy(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.Tensor, "copy_", copy)
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        fill_tensor(torch.zeros(4, 3), lazy, BOX)
