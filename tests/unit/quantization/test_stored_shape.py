"""Shapes that are stored as numbers: of one matrix, of several, and of none."""

import pytest
import torch

from streamconv.checkpoint.types import TensorInfo
from streamconv.errors import BadCheckpoint
from streamconv.quantization.stored_shape import read_shape


def stored(*numbers: int, dtype: torch.dtype) -> tuple[TensorInfo, bytes]:
    raw = torch.tensor(numbers, dtype=dtype).numpy().tobytes()
    name = {torch.int32: "I32", torch.int64: "I64"}[dtype]
    return TensorInfo("a.weight_shape", name, (len(numbers),), "f", 0, len(raw)), raw


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_a_shape(dtype: torch.dtype) -> None:
    """Matrices on top of each other have the rows of all."""
    assert read_shape(*stored(24, 64, dtype=dtype)) == (24, 64)
    assert read_shape(*stored(24, 64, 8, 64, dtype=dtype)) == (32, 64)


@pytest.mark.parametrize("numbers", [(), (24,), (24, 0), (-24, 64), (24, 64, 8), (24, 64, 8, 32)])
def test_numbers_that_are_no_shape(numbers: tuple[int, ...]) -> None:
    with pytest.raises(BadCheckpoint, match=r"a.weight_shape says the shape .*no matrix"):
        read_shape(*stored(*numbers, dtype=torch.int64))
