"""The metadata of a DCP is read or refused, whatever it says."""

import pickle
import time
import tracemalloc
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from streamconv.errors import BadCheckpoint, StreamconvError
from streamconv.formats.dcp_metadata_limits import reading_bytes
from streamconv.formats.dcp_metadata_reader import read_metadata
from streamconv.formats.dcp_metadata_writer import build_metadata
from streamconv.formats.dcp_tensors import Chunk, StoredTensor, check_chunks


def _tensor(chunks: list[ChunkStorageMetadata]) -> TensorStorageMetadata:
    return TensorStorageMetadata(TensorProperties(torch.bfloat16), torch.Size((3,)), chunks)


def _honest() -> bytes:
    place = _StorageInfo("__0_0.distcp", 0, 100)
    chunk = ChunkStorageMetadata(torch.Size((0,)), torch.Size((3,)))
    tensor = _tensor([chunk])
    index = MetadataIndex("weight", (0,), 0)
    return pickle.dumps(Metadata({"weight": tensor}, {"weight": ("weight",)}, {index: place}))


_HONEST = _honest()


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_any_change_of_a_byte_is_survived(data: st.DataObject) -> None:
    """It reads or it is refused; there is no third way."""
    raw = bytearray(_HONEST)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        read_metadata(bytes(raw[: data.draw(st.integers(0, len(raw)))]), "it")
    except StreamconvError as error:
        assert error.message.startswith("cannot read ")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"torch.strided", b"torch.st-ided"),
        (b"torch.serialization", b"torch.serializathon"),
        (b"TensorProperties", b"TensorPr\xd2\x91erties"),
        (b"\x89t\x94b", b"Nt\x94b"),
        (_HONEST[2:11], b"\x95" + (2**60).to_bytes(8, "little")),
        (b"\x80\x04", b"\x80\x06"),
        (b")\x81\x94}\x94(\x8c\nproperties", b")R\x94}\x94(\x8c\nproperties"),
        (b"torch.strided\x94\x85\x94R", b"torch.strided\x94\x85\x94\x81"),
    ],
    ids=[
        *("layout", "module", "class", "flag", "frame", "protocol", "a call of a class"),
        "an object of a function",
    ],
)
def test_what_torch_could_not_read_is_refused(old: bytes, new: bytes) -> None:
    """Also where the values are of no use here."""
    assert read_metadata(_HONEST, "it").tensors
    changed = _HONEST.replace(old, new, 1)
    assert changed != _HONEST
    with pytest.raises(BadCheckpoint):
        read_metadata(changed, "it")
    if b"Nt" not in new:  # torch takes any flag
        with pytest.raises(
            (AttributeError, ImportError, KeyError, TypeError, ValueError, pickle.UnpicklingError)
        ):
            pickle.loads(changed)


def _shared_chunks(count: int) -> Metadata:
    chunks = [ChunkStorageMetadata(torch.Size((0,)), torch.Size((0,)))] * count
    return Metadata({f"w{k}": _tensor(chunks) for k in range(count)}, {}, {})


def _shared_tensor(count: int) -> Metadata:
    chunk = ChunkStorageMetadata(torch.Size((0,) * 64), torch.Size((0,) * 64))
    tensor = _tensor([chunk] * 500)
    return Metadata(dict.fromkeys((f"w{k}" for k in range(count)), tensor), {}, {})


def _shared_path(count: int) -> Metadata:
    keys = [f"w{k}" for k in range(count)]
    place = _StorageInfo("__0_0.distcp", 0, 100)
    return Metadata(
        dict.fromkeys(keys, BytesStorageMetadata()),
        dict.fromkeys(keys, ("a",) * count),
        {MetadataIndex(key): place for key in keys},
    )


@pytest.mark.parametrize(
    ("metadata", "count"),
    [(_shared_chunks, 3000), (_shared_tensor, 3000), (_shared_path, 3000)],
)
def test_a_list_that_is_repeated_is_refused(
    metadata: Callable[[int], Metadata], count: int
) -> None:
    """Whatever shares it; the work is bounded by the bytes, not by what they unfold to."""
    raw = pickle.dumps(metadata(count))
    assert len(raw) < 1_000_000
    begin = time.process_time()
    with pytest.raises(BadCheckpoint, match="cannot read it: it repeats its lists: more values"):
        read_metadata(raw, "it")
    assert time.process_time() - begin < 30


def test_an_honest_checkpoint_of_many_chunks_is_read() -> None:
    """As pickled by torch, which shares what is equal; of 4 axes, cut on one."""
    tensors, places = {}, {}
    for number in range(30):
        chunks = []
        for k in range(64):
            offsets = torch.Size((k, 0, 0, 0))
            chunks.append(ChunkStorageMetadata(offsets, torch.Size((1, 2, 3, 4))))
            place = _StorageInfo(f"__{k}_0.distcp", 100 * number, 100)
            places[MetadataIndex(f"w{number}", offsets, k)] = place
        tensors[f"w{number}"] = TensorStorageMetadata(
            TensorProperties(torch.bfloat16), torch.Size((64, 2, 3, 4)), chunks
        )
    paths = {key: ("model", "layers", key) for key in tensors}
    for protocol in (2, 3, 4, 5):
        read = read_metadata(pickle.dumps(Metadata(tensors, paths, places), protocol), "it")
        assert [len(tensor.chunks) for tensor in read.tensors] == [64] * 30


def test_keys_of_one_hash_are_refused() -> None:
    """Each would be compared with all before it."""
    keys = (pickle.dumps(k * (2**61 - 1))[2:-1] for k in range(1, 50_000))
    raw = b"}(" + b"".join(key + b"N" for key in keys) + b"u."
    begin = time.process_time()
    with pytest.raises(BadCheckpoint, match="a key that is a very large number"):
        read_metadata(raw, "it")
    assert time.process_time() - begin < 30


def test_chunks_that_are_cut_along_no_axis_are_refused() -> None:
    """Each lies across all before it, so that every pair would have to be compared."""
    count = 4000
    chunks = [Chunk((k, k), (count, 1), "f", 0, 1) for k in range(count)]
    tensor = StoredTensor("w", ("w",), "U8", (2 * count, count), tuple(chunks))
    with pytest.raises(BadCheckpoint, match="4000 chunks are not cut along any axis"):
        check_chunks(tensor)


def test_a_grid_of_many_chunks_is_checked() -> None:
    """An honest one is not taken for that."""
    side = 100
    chunks = [Chunk((a, b), (1, 1), "f", 0, 1) for a in range(side) for b in range(side)]
    check_chunks(StoredTensor("w", ("w",), "U8", (side, side), tuple(chunks)))


@pytest.mark.parametrize(("tensors", "chunks"), [(4000, 1), (40, 100)])
def test_reading_takes_what_is_said_of_it(tensors: int, chunks: int) -> None:
    """At its peak, measured: at most what the memory of a plan counts, and more than half of it."""
    shape = (chunks, 8, 4)
    stored = [
        StoredTensor(
            f"model.layers.{number}.mlp.experts.gate_up_proj",
            (f"model.layers.{number}.mlp.experts.gate_up_proj",),
            "BF16",
            shape,
            tuple(
                Chunk((k, 0, 0), (1, 8, 4), "__0_0.distcp", (number * chunks + k) * 1200, 1200)
                for k in range(chunks)
            ),
        )
        for number in range(tensors)
    ]
    raw = build_metadata(stored, [], "{}")
    tracemalloc.start()
    try:
        metadata = read_metadata(raw, "it")
        peak = tracemalloc.get_traced_memory()[1] + len(raw)
    finally:
        tracemalloc.stop()
    assert list(metadata.tensors) == stored
    counted = reading_bytes(tensors, tensors * chunks)
    assert counted / 2 < peak < counted


@pytest.mark.parametrize("field", ["storage_data", "state_dict_metadata"])
@pytest.mark.parametrize("value", [None, [], [5], (1,), "text", 7], ids=repr)
def test_a_field_that_is_no_dictionary_is_refused(field: str, value: object) -> None:
    """In words."""
    metadata = pickle.loads(_HONEST)
    setattr(metadata, field, value)
    with pytest.raises(BadCheckpoint, match="a field is missing, or is of another kind"):
        read_metadata(pickle.dumps(metadata), "it")


@pytest.mark.parametrize("other", ["storage_data", "planner_data"])
def test_fields_that_are_one_dictionary_are_refused(other: str) -> None:
    """A pickle may refer to one dictionary from two fields."""
    metadata = pickle.loads(_HONEST)
    setattr(metadata, other, metadata.state_dict_metadata)
    with pytest.raises(BadCheckpoint, match="of another kind"):
        read_metadata(pickle.dumps(metadata), "it")
