"""Arrays of a framework over plain memory: torch tensors, or numpy arrays.

Each module is imported only if its framework is used.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol

from streamconv.errors import UsageError, quoted
from streamconv.formats.safetensors import DTYPE_BITS

FRAMEWORKS = ("pt", "np")

SAME = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
}
"""The dtypes that numpy and torch have under one name. In numpy, others are unsigned integers of
their width."""
_TORCH = {
    **SAME,
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    "F4": "float4_e2m1fn_x2",
}


class Arrays(Protocol):
    """Makes the arrays of one framework."""

    def dtype(self, name: str) -> Any:
        """Return the framework's dtype for one of the format. Raises UsageError if it has none."""

    def new(self, dtype: str, shape: Sequence[int]) -> tuple[Any, memoryview]:
        """Return an uninitialized array, and its memory as single bytes."""

    def over(self, memory: Any, dtype: str, shape: Sequence[int]) -> Any:
        """Return an array whose elements are in `memory`, which has the buffer protocol."""


def arrays_of(framework: str) -> Arrays:
    """Return the maker of a framework's arrays. Raises UsageError for an unknown framework."""
    if framework == "pt":
        return TorchArrays()
    if framework == "np":
        return NumpyArrays()
    raise UsageError(
        f"cannot open a checkpoint for {quoted(repr(framework))}: there is no such framework",
        f"choose from {', '.join(FRAMEWORKS)}",
    )


class NumpyArrays:
    """Arrays of numpy."""

    def dtype(self, name: str) -> Any:
        import numpy as np

        return np.dtype(SAME.get(name, f"uint{_element_bits(name)}"))

    def new(self, dtype: str, shape: Sequence[int]) -> tuple[Any, memoryview]:
        import numpy as np

        array = np.empty(array_shape(dtype, shape), self.dtype(dtype))
        return array, array.reshape(-1).view(np.uint8).data

    def over(self, memory: Any, dtype: str, shape: Sequence[int]) -> Any:
        import numpy as np

        return np.frombuffer(memory, self.dtype(dtype)).reshape(array_shape(dtype, shape))


class TorchArrays:
    """Tensors of torch."""

    def dtype(self, name: str) -> Any:
        import torch

        found = getattr(torch, _TORCH.get(name, ""), None)
        if found is None:
            raise UsageError(f"cannot open {quoted(name)}: torch has no such dtype")
        return found

    def new(self, dtype: str, shape: Sequence[int]) -> tuple[Any, memoryview]:
        import torch

        check_no_fakes()
        # whatever the default device is
        tensor = torch.empty(array_shape(dtype, shape), dtype=self.dtype(dtype), device="cpu")
        return tensor, tensor.reshape(-1).view(torch.uint8).numpy().data

    def over(self, memory: Any, dtype: str, shape: Sequence[int]) -> Any:
        import torch

        check_no_fakes()
        return torch.frombuffer(memory, dtype=self.dtype(dtype)).reshape(array_shape(dtype, shape))


def check_no_fakes() -> None:
    """Raise UsageError where torch makes fake tensors, which have no content."""
    from torch._guards import detect_fake_mode

    if detect_fake_mode() is not None:
        raise UsageError(
            "cannot read a tensor under a FakeTensorMode: its tensors have no content",
            "read it outside of the mode",
        )


def array_shape(dtype: str, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape in elements of whole bytes: two elements of four bits count as one.

    Raises UsageError if that is impossible.
    """
    bits = DTYPE_BITS[dtype]
    if bits % 8 == 0:
        return tuple(shape)
    if bits != 4 or not shape or shape[-1] % 2:
        raise UsageError(
            f"cannot open {quoted(dtype)} {list(shape)}: arrays have elements of whole bytes"
        )
    return (*shape[:-1], shape[-1] // 2)


def nbytes_of(dtype: str, shape: Sequence[int]) -> int:
    """Return the size of a tensor in bytes."""
    return math.prod(shape) * DTYPE_BITS[dtype] // 8


def format_dtype(dtype: Any) -> str:
    """Return the format's name of a dtype of torch. Raises UsageError if it has none."""
    name = str(dtype).removeprefix("torch.")
    found = next((of_format for of_format, known in _TORCH.items() if known == name), None)
    if found is None:
        raise UsageError(f"cannot store {quoted(name)}: the safetensors format has no such dtype")
    return found


def _element_bits(name: str) -> int:
    """Return the bits of the unsigned integer that replaces an element."""
    return max(DTYPE_BITS[name], 8)
