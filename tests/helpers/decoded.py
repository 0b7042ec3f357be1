"""A quantized weight as a source, and what is read of it when it is dequantized."""

from dataclasses import replace

import torch
from memory_source import MemorySource
from quantized import Case

from streamconv.checkpoint.casting import Casting
from streamconv.checkpoint.types import TensorInfo
from streamconv.quantization.cast_checkpoint import cast_checkpoint
from streamconv.sources.base import Read, read_whole
from streamconv.sources.wrappers.cast import CastSource

TARGETS = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
DTYPES = {
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e8m0fnu: "F8_E8M0",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float32: "F32",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.float8_e5m2: "F8_E5M2",
}


def raw(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


def source_of(case: Case) -> MemorySource:
    """A source that holds a quantized weight called `a`."""
    tensors = {
        f"a{name}": (DTYPES[tensor.dtype], tuple(tensor.shape), raw(tensor))
        for name, tensor in case.tensors.items()
    }
    return MemorySource(tensors, config=case.config)


def decoded_of(source: MemorySource, target: str) -> TensorInfo:
    """The only tensor of a source, as a plan has it."""
    casting = Casting(dequantize=target)
    checkpoint = cast_checkpoint(source.checkpoint, casting, read=read_whole(source))
    (info,) = checkpoint.tensors.values()
    return info


def read_cast(
    source: MemorySource, info: TensorInfo, start: int = 0, count: int | None = None
) -> bytes:
    """The bytes that a conversion reads."""
    buffer = memoryview(bytearray(info.nbytes - start if count is None else count))
    CastSource(source).read([Read(info, start, buffer)])
    return bytes(buffer)


def changed(case: Case, name: str, index: int, value: float) -> Case:
    """The case with one number of a tensor replaced."""
    tensor = case.tensors[name].clone()
    tensor.reshape(-1)[index] = value
    return replace(case, tensors={**case.tensors, name: tensor})
