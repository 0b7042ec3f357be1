"""A lazy tensor reads what is asked for, and refuses what it does not have."""

from typing import Any

import numpy as np
import pytest
from folders import qwen_tensors
from fused_by_hand import CONFIG
from memory_source import MemorySource

from streamconv.catalog.catalog import default_catalog
from streamconv.errors import UsageError
from streamconv.lazy.arrays import arrays_of
from streamconv.lazy.checkpoint import LazyCheckpoint
from streamconv.lazy.reading import SliceReader
from streamconv.lazy.tensor import LazyTensor
from streamconv.planning.build import build_outputs
from streamconv.sources.wrappers.base import SourceWrapper

GATE_UP = "model.layers.0.mlp.experts.gate_up_proj"
MEMORY = MemorySource(qwen_tensors(1), config=CONFIG)


@pytest.fixture
def tensor() -> LazyTensor:
    """Gate and up of three experts, `[3, 12, 4]`, as numpy has them."""
    source, arrays = SourceWrapper(MEMORY), arrays_of("np")
    outputs = build_outputs(MEMORY.checkpoint, default_catalog(), "fused", {})
    reader = SliceReader(lambda: source, source, arrays)
    return LazyCheckpoint(MEMORY.checkpoint, outputs, reader, arrays, is_torch=False)[GATE_UP]


def test_its_facts(tensor: LazyTensor) -> None:
    assert (tensor.shape, tensor.get_shape()) == ((3, 12, 4), [3, 12, 4])
    assert (tensor.dtype, tensor.get_dtype()) == (np.uint16, "BF16")
    assert (tensor.nbytes, tensor.units) == (288, (1, 1, 1))
    first = MEMORY.checkpoint.tensors["model.layers.0.mlp.experts.0.gate_proj.weight"]
    assert tensor.place == (first.file, first.offset)
    assert repr(tensor) == f"LazyTensor('{GATE_UP}', BF16, [3, 12, 4])"


def test_a_share_has_its_part_of_gate_and_of_up(tensor: LazyTensor) -> None:
    """As tensor parallelism divides them; an axis of experts is divided as it is."""
    whole = tensor.read()
    for rank in range(2):
        expected = [whole[:, begin + 3 * rank : begin + 3 * rank + 3] for begin in (0, 6)]
        assert np.array_equal(tensor.shard(1, rank, 2), np.concatenate(expected, axis=1))
        assert np.array_equal(tensor.shard(-2, rank, 2), tensor.shard(1, rank, 2))
    assert np.array_equal(tensor.shard(0, 1, 3), whole[1:2])
    assert np.array_equal(tensor.shard(0, 0, 1), whole)


@pytest.mark.parametrize(
    ("share", "fact"),
    [
        ((3, 0, 2), "along axis 3: it has 3"),
        ((-4, 0, 2), "along axis -4: it has 3"),
        ((0, 3, 3), "shares count from 0 to 2"),
        ((0, 0, 0), "shares count from 0 to 0"),
        ((0, 0, 10**5000), "a number is beyond any size"),
        ((10**5000, 0, 1), "a number is beyond any size"),
        ((1, 0, 4), r"its 6 \+ 6 rows are not 4 equal shares"),
    ],
)
def test_shares_that_there_are_not(
    tensor: LazyTensor, share: tuple[int, int, int], fact: str
) -> None:
    with pytest.raises(UsageError, match=fact):
        tensor.shard(*share)


def test_a_box_into_memory(tensor: LazyTensor) -> None:
    memory = memoryview(bytearray(2 * 3 * 2 * 2))
    tensor.read_into([(0, 2), (5, 8), (1, 3)], memory)
    expected = tensor.read()[0:2, 5:8, 1:3]
    assert np.array_equal(np.frombuffer(memory, np.uint16).reshape(2, 3, 2), expected)
    assert np.array_equal(tensor.read_box([(0, 2), (5, 8), (1, 3)]), expected)
    for wrong, fact in (
        (memory[1:], r"cannot read 24 bytes of .* into 23 bytes of memory"),
        (memoryview(bytes(24)), "memory that is read-only"),
        (memoryview(bytearray(48))[::2], "memory that is not contiguous"),
    ):
        with pytest.raises(UsageError, match=fact):
            tensor.read_into([(0, 2), (5, 8), (1, 3)], wrong)


@pytest.mark.parametrize(
    ("box", "error"),
    [
        ([(0, 3), (0, 13), (0, 4)], IndexError),
        ([(0, 3), (0, 12)], IndexError),
        ([(2, 1), (0, 12), (0, 4)], IndexError),
        ([(0, 3), (0, 12), (0, 4.0)], TypeError),
        ([(0, 3), (0, 12), 4], TypeError),
        ([(0, 3), (0, 12), (0, 10**5000)], IndexError),
    ],
)
def test_boxes_that_are_none(tensor: LazyTensor, box: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        tensor.read_box(box)


def test_a_closed_checkpoint_reads_no_empty_box_either(tensor: LazyTensor) -> None:
    empty, memory = [(0, 0), (0, 12), (0, 4)], memoryview(bytearray())
    tensor.read_into(empty, memory)
    assert tensor.read_box(empty).shape == (0, 12, 4)
    tensor._reader.close()
    for read in (lambda: tensor.read_into(empty, memory), lambda: tensor.read_box(empty)):
        with pytest.raises(UsageError, match="the checkpoint is closed"):
            read()
