"""Arrays of both frameworks over plain memory."""

from typing import Any

import numpy as np
import pytest
import torch

from streamconv.errors import UsageError
from streamconv.formats.safetensors import DTYPE_BITS
from streamconv.lazy.arrays import array_shape, arrays_of, format_dtype, nbytes_of


@pytest.mark.parametrize("framework", ["pt", "np"])
@pytest.mark.parametrize("dtype", ["BOOL", "I64", "F16", "BF16", "F8_E4M3", "C64"])
def test_an_array_and_its_memory(framework: str, dtype: str) -> None:
    """As many bytes as elements take, and what is written to them is in the array."""
    arrays = arrays_of(framework)
    array, memory = arrays.new(dtype, (2, 3))
    assert tuple(array.shape) == (2, 3)
    assert (array.dtype, memory.nbytes) == (arrays.dtype(dtype), nbytes_of(dtype, (2, 3)))
    memory[:] = bytes([1] * memory.nbytes)
    over: Any = arrays.over(bytearray([1] * memory.nbytes), dtype, (2, 3))
    as_bytes = [
        each.view(torch.uint8).tolist() if framework == "pt" else each.view(np.uint8).tolist()
        for each in (array, over)
    ]
    assert as_bytes[0] == as_bytes[1]


def test_dtypes_that_numpy_lacks_are_integers_of_their_width() -> None:
    arrays = arrays_of("np")
    assert [arrays.dtype(name) for name in ("BF16", "F8_E5M2", "F4")] == ["uint16", "u1", "u1"]


def test_dtypes_of_torch_are_named_as_in_the_format() -> None:
    known = [name for name in DTYPE_BITS if not name.startswith("F6")]
    for name in known:
        assert format_dtype(arrays_of("pt").dtype(name)) == name
    with pytest.raises(UsageError, match="cannot store complex128: the safetensors format has no"):
        format_dtype(torch.complex128)
    with pytest.raises(UsageError, match="cannot open F6_E2M3: torch has no such dtype"):
        arrays_of("pt").dtype("F6_E2M3")


def test_two_codes_of_four_bits_are_one_element() -> None:
    assert array_shape("F4", (3, 8)) == (3, 4)
    assert array_shape("F32", (3, 8)) == (3, 8)
    for dtype, shape in (("F4", (3, 7)), ("F4", ()), ("F6_E2M3", (4,))):
        with pytest.raises(UsageError, match="arrays have elements of whole bytes"):
            array_shape(dtype, shape)


def test_an_unknown_framework() -> None:
    with pytest.raises(UsageError, match="checkpoint for 'jax': there is no") as error:
        arrays_of("jax")
    assert error.value.hint == "choose from pt, np"
