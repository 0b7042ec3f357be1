"""A read of a dequantized weight is cut into rows, and each row is decoded into its place."""

import pytest
import quantized
import torch
from memory_source import MemorySource

from streamconv.checkpoint.casting import Casting
from streamconv.checkpoint.types import TensorInfo
from streamconv.quantization.cast_checkpoint import cast_checkpoint
from streamconv.quantization.workspace import Workspace
from streamconv.sources.base import Read
from streamconv.sources.wrappers.pending_rows import PendingRows, rows_of

ROWS, COLUMNS = 4, 64


def raw(values: torch.Tensor) -> bytes:
    return bytes(values.contiguous().reshape(-1).view(torch.uint8).tolist())


@pytest.fixture(scope="module")
def weight() -> tuple[MemorySource, TensorInfo, bytes]:
    """Two matrices of four rows with blocks of 2 x 32, and their bytes by a formula of torch."""
    torch.manual_seed(0)
    codes, scales = quantized.codes8(2, ROWS, COLUMNS), quantized.scales(2, 2, 2)
    source = MemorySource(
        {
            "w": ("F8_E4M3", tuple(codes.shape), raw(codes)),
            "w_scale_inv": ("F32", tuple(scales.shape), raw(scales)),
        }
    )
    info = cast_checkpoint(source.checkpoint, Casting(dequantize="BF16")).tensors["w"]
    blocks = quantized.wide(scales, 2, 32, tuple(codes.shape))
    return source, info, raw((codes.float() * blocks).bfloat16())


def cut(info: TensorInfo, begin: int, end: int) -> tuple[memoryview, list[PendingRows]]:
    buffer = memoryview(bytearray(end - begin))
    assert info.cast is not None
    assert info.cast.decoding is not None
    return buffer, list(rows_of(Read(info, begin, buffer), info.cast, info.cast.decoding))


def test_what_a_read_is_cut_into(weight: tuple[MemorySource, TensorInfo, bytes]) -> None:
    """Whole rows of one matrix at a time, and parts of a row by themselves."""
    _, info, _ = weight
    rows, row_bytes = ROWS, 2 * COLUMNS
    _, found = cut(info, 4, 2 * rows * row_bytes - 6)
    assert [(each.matrix, list(each.rows), each.part) for each in found] == [
        (0, [0], (4, row_bytes)),
        (0, list(range(1, rows)), None),
        (1, list(range(rows - 1)), None),
        (1, [rows - 1], (0, row_bytes - 6)),
    ]
    assert [len(each.out) for each in found] == [
        *(row_bytes - 4, (rows - 1) * row_bytes, (rows - 1) * row_bytes, row_bytes - 6)
    ]


@pytest.mark.parametrize(("begin", "end"), [(0, 8), (2, 130), (126, 640), (0, 1024)])
def test_every_cut_gives_its_bytes(
    weight: tuple[MemorySource, TensorInfo, bytes], begin: int, end: int
) -> None:
    source, info, expected = weight
    buffer, found = cut(info, begin, end)
    for each in found:
        source.read(each.stored_reads())
        each.finish(Workspace())
    assert bytes(buffer) == expected[begin:end]


def test_portions_are_cut_between_rows(weight: tuple[MemorySource, TensorInfo, bytes]) -> None:
    """Of codes that take so many bytes, at least one row each."""
    _, info, expected = weight
    matrix_bytes = len(expected) // 2
    _, (whole,) = cut(info, 0, matrix_bytes)
    codes_of_row = whole.decoding.codes.row_bytes
    for nbytes, most in ((2 * codes_of_row, 2), (codes_of_row // 2, 1)):
        portions = list(whole.portions(nbytes))
        assert max(len(portion.rows) for portion in portions) == most
        assert [row for portion in portions for row in portion.rows] == list(whole.rows)
        assert sum(len(portion.out) for portion in portions) == matrix_bytes
    _, (part,) = cut(info, 2, 8)
    assert list(part.portions(1)) == [part]
