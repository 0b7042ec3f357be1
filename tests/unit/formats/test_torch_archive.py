"""Archives of a tensor are those of torch.save, which torch.load reads."""

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from dcp_folders import saved
from hypothesis import given, settings
from hypothesis import strategies as st

from streamconv.errors import BadCheckpoint
from streamconv.formats.torch_archive_reader import find_tensor
from streamconv.formats.torch_archive_writer import around_tensor


def test_a_chunk_past_four_gigabytes(tmp_path: Path) -> None:
    """Its sizes do not fit the old fields of a zip; the file is sparse."""
    head, tail = around_tensor("U8", (5 * 2**30,))
    with (tmp_path / "big").open("wb") as file:
        file.write(head)
        file.seek(5 * 2**30 - 1, os.SEEK_CUR)
        file.write(b"\7" + tail)
    loaded = torch.load(tmp_path / "big", mmap=True, weights_only=True)
    assert (loaded.shape, int(loaded[-1])) == ((5 * 2**30,), 7)


def archived(tensor: torch.Tensor, **options: Any) -> bytes:
    """As `torch.save` would not: with other files, or compressed."""
    head, tail = around_tensor("BF16", tuple(tensor.shape))
    raw = head + tensor.view(torch.int16).numpy().tobytes() + tail
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(stream, "w", **options) as new:
        for info in old.infolist():
            content = old.open(info).read() if info.CRC else raw[len(head) : -len(tail)]
            new.writestr(info.filename, content)
    return stream.getvalue()


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_a_compressed_chunk(compression: int) -> None:
    """Is not bytes in place."""
    raw = archived(torch.zeros(40, dtype=torch.bfloat16), compression=compression)
    with pytest.raises(BadCheckpoint, match="compressed"):
        find_tensor(lambda offset, count: raw[offset : offset + count], len(raw), "it")


def test_an_archive_of_an_older_torch() -> None:
    """Without the entries that came later, and without 64-bit fields."""
    tensor = torch.arange(40, dtype=torch.int16).view(torch.bfloat16)
    raw = archived(tensor)
    found = find_tensor(lambda offset, count: raw[offset : offset + count], len(raw), "it")
    assert (found.dtype, found.shape) == ("BF16", (40,))
    assert raw[found.begin : found.begin + 80] == tensor.view(torch.int16).numpy().tobytes()


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 10**6), st.integers(0, 255), st.integers(0, 10**6))
def test_any_change_of_an_archive_is_survived(at: int, byte: int, cut: int) -> None:
    """A tensor of the same size is found, or it is refused."""
    raw = bytearray(saved(torch.zeros(30, dtype=torch.float32)))
    raw[at % len(raw)] = byte
    raw = raw[: len(raw) - cut % 40] if cut % 3 == 0 else raw
    try:
        find_tensor(lambda offset, count: bytes(raw[offset : offset + count]), len(raw), "it")
    except BadCheckpoint as error:
        assert error.message.startswith("cannot read it: not a tensor")
