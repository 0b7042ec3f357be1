"""A DCP that is broken, or made to do harm, is refused before anything is written or run."""

import gc
import io
import os
import pickle
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from dcp_folders import saved, write_dcp, write_metadata
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, MetadataIndex

import streamconv
from streamconv.errors import BadCheckpoint
from streamconv.formats.dcp_metadata_limits import MAX_METADATA_BYTES
from streamconv.sources.base import Read
from streamconv.sources.open import open_source

RAN = "ran"
"""The file that appears where a pickle is run."""


class Harm:
    """Pickles into a call."""

    def __init__(self, *call: Any) -> None:
        self._call = call

    def __reduce__(self) -> Any:
        return self._call[0], self._call[1:]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "dcp"


@pytest.fixture
def metadata(folder: Path) -> Metadata:
    """A checkpoint of one tensor in four chunks."""
    tensor = torch.arange(24, dtype=torch.int16).view(torch.bfloat16).reshape(4, 6)
    return write_dcp(folder, {"weight": (tensor, [[2], [3]])})


def refused(folder: Path, fact: str) -> None:
    """As bad input, in a line, with nothing written and nothing run."""
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(BadCheckpoint, match=fact) as caught:
        streamconv.merge(folder, folder.parent / "out")
    assert "\n" not in caught.value.message
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert not (folder.parent / "out").exists()
    assert not (folder.parent / RAN).exists()


# --- the pickle --------------------------------------------------------------------------------

HARMFUL: dict[str, Callable[[Metadata], Any]] = {
    "reduce": lambda _: Harm(os.system, f"touch {RAN}"),
    "in a field": lambda m: replace(m, version=Harm(os.system, f"touch {RAN}")),
    "builtin": lambda _: Harm(eval, f"open({RAN!r}, 'w')"),
    "nested": lambda m: replace(m, planner_data={"a": [Harm(exec, f"open({RAN!r}, 'w')")]}),
    "as a key": lambda m: replace(m, planner_data={Harm(os.mkdir, RAN): 1}),
    "getattr": lambda _: Harm(getattr, Harm(__import__, "os"), "system"),
    "partial": lambda _: Harm(__import__, "functools"),
    "torch": lambda _: Harm(torch.load, RAN),
    "path": lambda _: Harm(Path(RAN).touch),
}


@pytest.mark.parametrize("kind", HARMFUL)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_nothing_is_run(folder: Path, metadata: Metadata, kind: str, protocol: int) -> None:
    """The name is said instead; torch would run it."""
    raw = pickle.dumps(HARMFUL[kind](metadata), protocol=protocol)
    (folder / ".metadata").write_bytes(raw)
    refused(folder, "it names .*, which no checkpoint needs")


@pytest.mark.parametrize(
    "raw",
    [
        b"cos\nsystem\n(S'touch ran'\ntR.",
        b"\x80\x02cposix\nsystem\nX\x05\0\0\0touch\x85R.",
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x01x\x85R.",
        b"\x80\x04\x8c\x05torch\x8c\x10_utils.os.system\x93\x8c\x01x\x85R.",
        b"(S'touch ran'\nios\nsystem\n.",
        b"\x80\x02\x8c\x0atorch.Size\x8c\x01x\x93.",
        b"\x80\x02\x82\x01.",
        b"ctorch\nSize\n)R}b.",
        b"ctorch.distributed.checkpoint.metadata\nMetadata\n)\x81(NNtb.",
        b"ctorch\nbfloat16\n}b.",
    ],
)
def test_crafted_opcodes(folder: Path, metadata: Metadata, raw: bytes) -> None:
    """What only a hand writes."""
    (folder / ".metadata").write_bytes(raw)
    refused(folder, "it names|not a pickle of a checkpoint|not the metadata")


def doubled(times: int) -> Any:
    """A pair of the same pair, of the same pair: a few bytes each, and twice as much to look at."""
    value: Any = ()
    for _ in range(times):
        value = (value, value)
    return value


@pytest.mark.parametrize(
    ("raw", "fact"),
    [
        (b"", "ends too early"),
        (b"\x80\x04.", "ends too early"),
        (b"\x80\x04(((", "ends too early"),
        (b"\x80\x04X\xff\xff\xff\xffa.", "ends too early"),
        (b"\x80\x04\x8d" + b"\xff" * 8 + b".", "ends too early"),
        (b"\x80\x04\x96" + b"\xff" * 8 + b".", "ends too early"),
        (b"\x80\x04Nr\xff\xff\xff\xff.", "takes a value that is not there"),
        (b"\x80\x04j\xff\xff\xff\xff.", "ends too early"),
        (b"\x80\x04})" + b"\x85" * 9 + b"Ns.", "not the metadata"),
        (b"]" + b"\x94h\0a" * 3 + b".", "not the metadata"),
        (b")" + b"\x85" * 200_000 + b".", "not the metadata"),
        (b"(" * 200_000 + b"l" * 9, "no plain value needs"),
        (pickle.dumps(doubled(200)), "not the metadata"),
        (b"X\x01\0\0\0\xff.", "not UTF-8"),
        (b"PK\x03\x04", "no plain value needs"),
        (b"<html>", "no plain value needs"),
    ],
)
def test_bombs_and_debris(folder: Path, metadata: Metadata, raw: bytes, fact: str) -> None:
    """Announced sizes are not believed, and depth costs nothing."""
    (folder / ".metadata").write_bytes(raw)
    refused(folder, fact)


def test_a_pickle_of_gigabytes(folder: Path, metadata: Metadata) -> None:
    """It is not even read; the file is sparse."""
    os.truncate(folder / ".metadata", MAX_METADATA_BYTES + 1)
    refused(folder, f"no such file has over {MAX_METADATA_BYTES}")


@pytest.mark.parametrize("collecting", [True, False])
def test_the_collector_is_as_it_was(folder: Path, metadata: Metadata, collecting: bool) -> None:
    """After a checkpoint has been opened, and after one has been refused."""
    was = gc.isenabled()
    try:
        (gc.enable if collecting else gc.disable)()
        open_source(str(folder)).close()
        assert gc.isenabled() == collecting
        os.truncate(folder / "__1_0.distcp", 10)
        with pytest.raises(BadCheckpoint):
            open_source(str(folder))
        assert gc.isenabled() == collecting
    finally:
        (gc.enable if was else gc.disable)()


# --- what it says ------------------------------------------------------------------------------


def first(metadata: Metadata) -> MetadataIndex:
    return next(iter(metadata.storage_data))


def move(metadata: Metadata, **fields: Any) -> None:
    """Change what is said of where the first chunk is."""
    index = first(metadata)
    metadata.storage_data[index] = replace(metadata.storage_data[index], **fields)


def chunks(metadata: Metadata) -> list[ChunkStorageMetadata]:
    found: list[ChunkStorageMetadata] = metadata.state_dict_metadata["weight"].chunks
    return found


def grow(metadata: Metadata) -> None:
    chunks(metadata)[0].sizes = torch.Size((2, 4))


def shift(metadata: Metadata) -> None:
    chunks(metadata)[-1].sizes = torch.Size((2, 4))


def retype(metadata: Metadata) -> None:
    metadata.state_dict_metadata["weight"].properties.dtype = torch.float16


def unsupported(metadata: Metadata) -> None:
    metadata.state_dict_metadata["weight"].properties.dtype = torch.complex128


SAID: dict[str, tuple[Callable[[Metadata], Any], str]] = {
    "path above": (lambda m: move(m, relative_path="../x.distcp"), "not the name of a file below"),
    "absolute": (lambda m: move(m, relative_path="/etc/passwd"), "not the name of a file below"),
    "empty path": (lambda m: move(m, relative_path=""), "not the name of a file below"),
    "windows": (lambda m: move(m, relative_path="C:\\x"), "not the name of a file below"),
    "no such file": (
        lambda m: move(m, relative_path="__9_0.distcp"),
        "__9_0.distcp: it is missing",
    ),
    "past the end": (lambda m: move(m, offset=10**9), "the file is cut short"),
    "negative": (lambda m: move(m, offset=-1), "a field is missing, or is of another kind"),
    "another offset": (lambda m: move(m, offset=64), "not a tensor of torch.save"),
    "too short": (lambda m: move(m, length=100), "no zip directory at its end"),
    "transformed": (lambda m: move(m, transform_descriptors=["zstd"]), "stored transformed"),
    "no place": (
        lambda m: m.storage_data.pop(first(m)),
        "the metadata names no file that holds its chunk",
    ),
    "a chunk missing": (lambda m: chunks(m).pop(), "hold 18 of 24 elements: a chunk is missing"),
    "no chunk": (lambda m: chunks(m).clear(), "a chunk is missing"),
    "overlap": (grow, "overlap"),
    "outside": (shift, "lies outside of it"),
    "dtype": (retype, "holds BF16 .* there, .metadata says F16"),
    "no such dtype": (unsupported, "torch.complex128, which safetensors cannot hold"),
    "bomb as a path": (lambda m: setattr(m, "planner_data", {"weight": doubled(99)}), "another"),
    "bomb in a path": (lambda m: setattr(m, "planner_data", {"weight": (doubled(99),)}), "another"),
    "bomb as a file": (lambda m: move(m, relative_path=doubled(99)), "a field is missing, or is"),
    "bomb as a transformation": (
        lambda m: move(m, transform_descriptors=doubled(99)),
        "stored transformed",
    ),
    "no planner data": (lambda m: m.state_dict_metadata.clear(), "no tensor in it"),
}


@pytest.mark.parametrize("kind", SAID)
def test_a_dcp_that_contradicts_itself(folder: Path, metadata: Metadata, kind: str) -> None:
    """The error names the tensor or the file, and both facts."""
    change, fact = SAID[kind]
    change(metadata)
    write_metadata(folder, metadata)
    refused(folder, fact)


# --- the files ---------------------------------------------------------------------------------


def test_chunks_of_two_dtypes(folder: Path, metadata: Metadata) -> None:
    """Of the same size, so that only the archive itself tells."""
    index = next(i for i, place in metadata.storage_data.items() if place.offset)
    place = metadata.storage_data[index]
    content = bytearray((folder / place.relative_path).read_bytes())
    shape = chunks(metadata)[index.index].sizes
    content[place.offset :] = saved(torch.zeros(shape, dtype=torch.float16))
    (folder / place.relative_path).write_bytes(content)
    metadata.storage_data[index] = replace(place, length=len(content) - place.offset)
    write_metadata(folder, metadata)
    refused(folder, "holds F16 .* there, .metadata says BF16")


def test_a_missing_file(folder: Path, metadata: Metadata) -> None:
    """Of the last rank, say."""
    (folder / "__1_0.distcp").unlink()
    refused(folder, "__1_0.distcp: it is missing")


def test_a_file_cut_short(folder: Path, metadata: Metadata) -> None:
    """By as little as a byte."""
    os.truncate(folder / "__1_0.distcp", (folder / "__1_0.distcp").stat().st_size - 1)
    refused(folder, "the file is cut short")


def test_a_link_out_of_the_folder(folder: Path, metadata: Metadata) -> None:
    """A file has to be in the checkpoint."""
    shutil.move(folder / "__1_0.distcp", folder.parent / "elsewhere")
    (folder / "__1_0.distcp").symlink_to(folder.parent / "elsewhere")
    refused(folder, "outside of the checkpoint")


@pytest.mark.parametrize("left", ["", ".metadata.tmp"])
def test_a_save_that_did_not_end(folder: Path, metadata: Metadata, left: str) -> None:
    """Files of chunks without the metadata that is written last."""
    if left:
        (folder / ".metadata").rename(folder / left)
    else:
        (folder / ".metadata").unlink()
    refused(folder, "saving it was not finished")


def test_stale_files_are_named(folder: Path, metadata: Metadata) -> None:
    """Of a world that was larger once."""
    (folder / "__4_0.distcp").write_bytes(b"old")
    opened = open_source(str(folder))
    opened.close()
    (stale,) = opened.checkpoint.others
    assert (stale.name, stale.skip_reason) == ("__4_0.distcp", "not in .metadata")


def test_values_are_never_opened(folder: Path) -> None:
    """Whatever they hold."""
    tensor = torch.zeros(3, dtype=torch.bfloat16)
    write_dcp(folder, {"weight": (tensor, [[]])}, {"args": Harm(os.system, f"touch {RAN}")})
    opened = open_source(str(folder))
    opened.close()
    assert [other.name for other in opened.checkpoint.others] == ["args"]
    assert not (folder.parent / RAN).exists()


@pytest.mark.parametrize(
    ("header", "fact"),
    [
        (
            b'{"other":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]}}',
            "no tensor of that name",
        ),
        (b'{"weight":{"dtype":"F16","shape":[2,2],"data_offsets":[0,8]}}', "holds F16 .* there"),
        (b'{"weight":{"dtype":"BF16","shape":[4],"data_offsets":[0,8]}}', r"holds BF16 \[4\]"),
        (b'{"weight":{"dtype":"BF16","shape":[2,2],"data_offsets":[8,16]}}', "begins at byte 8"),
        (b'{"weight":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,9]}}', "span 72"),
        (b'{"weight":', "JSON"),
    ],
)
def test_safetensors_that_are_not_what_metadata_says(
    folder: Path, header: bytes, fact: str
) -> None:
    """The header is read as that of any file of this format."""
    metadata = write_dcp(folder, {"weight": (torch.ones(2, 2, dtype=torch.bfloat16), [[], []])})
    raw = len(header).to_bytes(8, "little") + header + bytes(8)
    (folder / "__0_0.distcp").write_bytes(raw)
    move(metadata, length=8)
    write_metadata(folder, metadata)
    refused(folder, fact)


def test_two_chunks_in_the_same_bytes(folder: Path) -> None:
    """As where two chunks of a tensor were put into safetensors under its one name."""
    tensor = torch.arange(8, dtype=torch.int16).view(torch.bfloat16)
    metadata = write_dcp(folder, {"weight": (tensor, [[4]])})
    one, other = metadata.storage_data
    metadata.storage_data[other] = metadata.storage_data[one]
    write_metadata(folder, metadata)
    refused(folder, "weight: .metadata says of two chunks that they are the same bytes")


def test_a_chunk_that_is_not_contiguous(folder: Path, metadata: Metadata) -> None:
    """Its bytes would be read in another order than they are in."""
    stream = io.BytesIO()
    torch.save(torch.zeros(3, 2, dtype=torch.bfloat16).t(), stream)
    data = bytearray((folder / "__0_0.distcp").read_bytes())
    move(metadata, offset=len(data), length=len(stream.getvalue()))
    (folder / "__0_0.distcp").write_bytes(data + stream.getvalue())
    write_metadata(folder, metadata)
    refused(folder, r"stored with the strides \[1, 2\], not contiguous")


def test_a_file_that_shrinks_while_it_is_read(folder: Path) -> None:
    """The error says at which byte it ends."""
    tensor = torch.frombuffer(bytearray(random.Random(0).randbytes(4000)), dtype=torch.int16)
    write_dcp(folder, {"weight": (tensor, [[]])}, files=1)
    opened = open_source(str(folder))
    os.truncate(folder / "__0_0.distcp", 900)
    info = opened.checkpoint.tensors["weight"]
    read = Read(info, 0, memoryview(bytearray(4000)))
    with pytest.raises(BadCheckpoint, match="has become shorter"):
        opened.read([read])
    opened.close()
