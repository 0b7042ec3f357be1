"""What is found in an archive is what torch finds there, or the archive is refused."""

import io
import warnings
import zipfile
from collections.abc import Callable

import pytest
import torch
from dcp_folders import saved
from torch.utils.serialization import config

from streamconv.errors import BadCheckpoint
from streamconv.formats.torch_archive_reader import ArchivedTensor, find_tensor
from streamconv.formats.torch_archive_writer import around_tensor

TENSOR = torch.arange(40, dtype=torch.int16).view(torch.bfloat16)
BYTES = TENSOR.view(torch.int16).numpy().tobytes()


def saved_without_checksums() -> bytes:
    """As torch saves if it is told to compute none."""
    with config.patch("save.compute_crc32", False):
        return saved(TENSOR)


def made_here() -> bytes:
    """As this package stores a tensor."""
    head, tail = around_tensor("BF16", tuple(TENSOR.shape))
    return head + BYTES + tail


MAKERS: dict[str, Callable[[], bytes]] = {
    "torch": lambda: saved(TENSOR),
    "torch without checksums": saved_without_checksums,
    "streamconv": made_here,
}


def found(raw: bytes) -> ArchivedTensor:
    return find_tensor(lambda offset, count: raw[offset : offset + count], len(raw), "it")


def read_by_torch(raw: bytes) -> torch.Tensor | None:
    """Load as the reader of a DCP does; None if it fails."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded: torch.Tensor = torch.load(io.BytesIO(raw), "cpu", weights_only=True)
    except Exception:
        return None
    return loaded


@pytest.mark.parametrize("maker", MAKERS)
def test_any_changed_bit_is_read_as_torch_reads_it(maker: str) -> None:
    """All bits of the archive in turn: what is accepted has the values that torch finds."""
    raw = bytearray(MAKERS[maker]())
    places = range(8 * len(raw))
    if (
        maker != "streamconv"
    ):  # long, and most of it padding: every third bit, which meets all bytes
        places = places[::3]
    assert found(bytes(raw)).shape == (40,)
    accepted = 0
    for place in places:
        raw[place // 8] ^= 1 << place % 8
        try:
            stored = found(bytes(raw))
        except BadCheckpoint:
            pass
        else:
            accepted += 1
            loaded = read_by_torch(bytes(raw))
            assert loaded is not None, f"bit {place}"
            assert (loaded.dtype, tuple(loaded.shape)) == (torch.bfloat16, stored.shape)
            bits = loaded.detach().view(torch.int16).numpy().tobytes()
            assert bits == raw[stored.begin : stored.begin + len(bits)], f"bit {place}"
        raw[place // 8] ^= 1 << place % 8
    assert accepted > 8 * len(BYTES) // 3


def entry(raw: bytes, name: bytes) -> int:
    """Return where the directory describes a file."""
    return raw.rindex(b"PK\1\2", 0, raw.rindex(name))


@pytest.mark.parametrize(
    ("skip", "value", "fact"),
    [
        (8, 0x1, "encrypted"),
        (10, 8, "compressed"),
        (16, 1, "checksum|contradicts the directory"),
        (34, 1, "another archive"),
        (38, 0x10, "a folder"),
        (42, 64, "no file at byte|contradicts the directory|ends at byte|begin with a file"),
    ],
    ids=["flags", "method", "checksum", "disk", "attributes", "offset"],
)
@pytest.mark.parametrize("name", [b"data/0", b"data.pkl", b"version"])
def test_a_changed_entry_of_the_directory(skip: int, value: int, fact: str, name: bytes) -> None:
    """Is refused, and says which of the places it contradicts."""
    raw = bytearray(saved(TENSOR))
    raw[entry(bytes(raw), name) + skip] ^= value
    with pytest.raises(BadCheckpoint, match=fact):
        found(bytes(raw))


def test_names_that_differ_in_case_only() -> None:
    """torch would find either."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(made_here())) as old, zipfile.ZipFile(stream, "w") as new:
        for info in old.infolist():
            content = BYTES if info.filename.endswith("data/0") else old.read(info)
            new.writestr(info.filename, content)
        new.writestr("archive/DATA/0", bytes(len(BYTES)))
    with pytest.raises(BadCheckpoint, match="there twice"):
        found(stream.getvalue())
