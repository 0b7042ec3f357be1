"""The `.metadata` of a torch.distributed.checkpoint folder: which chunks make a tensor.

    Metadata
      state_dict_metadata   key -> TensorStorageMetadata: dtype, shape, chunks (offsets and sizes)
                            key -> BytesStorageMetadata: a pickle of something else
      planner_data          key -> its path in the nested state dict
      storage_data          MetadataIndex (key, offsets of a chunk)
                            -> _StorageInfo (file, offset and length in bytes)
      streamconv            what this package records; other readers ignore it
      streamconv_digest     xxh3-128 of all bytes of the file before these 32 digits

The file is a pickle of torch's own classes.
Source: `torch/distributed/checkpoint/metadata.py`, `filesystem.py` and `default_planner.py`.
"""

METADATA_FILE = ".metadata"
DATA_SUFFIX = ".distcp"
VERSION = "1.0.0"

_PACKAGE = "torch.distributed.checkpoint."
METADATA, TENSOR, BYTES, CHUNK, INDEX, PROPERTIES, ENCODING, ORIGIN = (
    f"{_PACKAGE}metadata.{name}"
    for name in (
        "Metadata",
        "TensorStorageMetadata",
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "MetadataIndex",
        "TensorProperties",
        "_MEM_FORMAT_ENCODING",
        "StorageMeta",
    )
)
STORAGE_INFO = f"{_PACKAGE}filesystem._StorageInfo"
SIZE, LAYOUT = "torch.Size", "torch.serialization._get_layout"
OLD = "torch.distributed._shard.sharded_tensor.metadata."
"""The module of TensorProperties in torch before 2.3."""

DIGEST_FIELD = "streamconv_digest"
DIGITS = 32
TAIL = b"ub."
"""The bytes after the digits: they end the fields, the object and the pickle."""


def digest_of(raw: bytes | memoryview) -> bytes:
    """Return the xxh3-128 of bytes as hex digits."""
    from xxhash import xxh3_128_hexdigest

    return str(xxh3_128_hexdigest(raw)).encode("ascii")
