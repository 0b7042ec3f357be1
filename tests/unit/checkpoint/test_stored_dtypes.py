"""Which tensors are quantized, and which dtype a model has."""

import math

import pytest

from streamconv.checkpoint.stored_dtypes import is_quantized, main_dtype
from streamconv.checkpoint.types import TensorInfo


def info(name: str, dtype: str, *shape: int) -> TensorInfo:
    return TensorInfo(name, dtype, shape, "file", 0, math.prod(shape))


@pytest.mark.parametrize(
    ("tensor", "quantized"),
    [
        (info("a.weight", "F8_E4M3", 3), True),
        (info("a.weight", "F4", 3, 2), True),
        (info("a.weight", "I8", 3, 2), True),
        (info("a.weight_packed", "I32", 3, 2), True),
        (info("a.qweight", "I32", 3, 2), True),
        (info("a.weight", "BF16", 3, 2), False),
        (info("a.weight_scale", "F32", 3, 2), False),
        (info("a.k_scale", "F32"), False),
        (info("a.relative_index", "I32", 3, 2), False),
        (info("a.position_ids", "I64", 1, 3), False),
        (info("a.flags", "U8", 3), False),
        (info("a.mask", "BOOL", 3, 3), False),
    ],
)
def test_which_tensors_hold_codes(tensor: TensorInfo, quantized: bool) -> None:
    """Scales, indexes and counters are none."""
    assert is_quantized(tensor) is quantized


def test_the_dtype_of_most_elements() -> None:
    """Not of most tensors, or bytes; of several alike, the first of those that a cast makes."""
    norms = [info(f"{k}.norm.weight", "F32", 3) for k in range(9)]
    assert main_dtype([*norms, info("a", "BF16", 4, 7)]) == "BF16"
    assert main_dtype([*norms, info("a", "BF16", 27)]) == "BF16"
    assert main_dtype([*norms, info("a", "F8_E4M3", 4, 70), info("b", "I64", 700)]) == "F32"
    assert main_dtype([info("a", "F64", 3), info("b", "F16", 0)]) is None
