"""The metadata of a DCP is read or refused, whatever it says."""

import pickle

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, MetadataIndex

from streamconv.errors import StreamconvError
from streamconv.formats.dcp_metadata import read_metadata


def _honest() -> bytes:
    place = _StorageInfo("__0_0.distcp", 0, 100)
    chunk = ChunkStorageMetadata(torch.Size((0,)), torch.Size((3,)))
    tensor = torch.distributed.checkpoint.metadata.TensorStorageMetadata(
        torch.distributed.checkpoint.metadata.TensorProperties(torch.bfloat16),
        torch.Size((3,)),
        [chunk],
    )
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
