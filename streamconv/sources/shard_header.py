"""The headers of shards: parsed from their bytes, and read from local files."""

from dataclasses import dataclass
from pathlib import Path

from streamconv.checkpoint.types import SourceFile
from streamconv.errors import BadCheckpoint, IOFailed, quoted
from streamconv.formats.safetensors import LENGTH_BYTES, Header
from streamconv.formats.safetensors_reader import header_length, parse_header
from streamconv.sources.safe_paths import convert_os_errors, resolve_file
from streamconv.system.file_reads import FileReads

DIGEST_BLOCK = 2**18
"""Bytes of a header that are read at once when its digest is compared."""


@dataclass(frozen=True, slots=True)
class ShardHeader:
    """The header of a shard, and the facts of its file."""

    header: Header
    file: SourceFile


def read_shard_header(name: str, raw: bytes, size: int) -> ShardHeader:
    """Parse the header of a shard.

    Args:
        name: The name of the shard.
        raw: The JSON of its header.
        size: Bytes of the whole shard.

    Raises:
        BadCheckpoint: The header is malformed, or does not fit the size.
    """
    header = parse_header(raw, size, quoted(name))
    return ShardHeader(header, SourceFile(name, size, header_digest(raw)))


def header_digest(raw: bytes) -> str:
    """Return the xxh3-128 of a header as hex digits."""
    from xxhash import xxh3_128_hexdigest

    return str(xxh3_128_hexdigest(raw))


def placeholder_header(name: str, size: int) -> ShardHeader:
    """Return a placeholder for the unreadable header of a file that the index leaves out."""
    return ShardHeader(Header((), {}, 0), SourceFile(name, size, ""))


# --- local files --------------------------------------------------------------------------------


def read_local_header(folder: Path, name: str, files: FileReads) -> ShardHeader:
    """Read the header of a shard in a local folder.

    Raises:
        BadCheckpoint: The shard is missing, or its header is malformed.
        IOFailed: Reading failed.
    """
    path, status = resolve_file(folder, name, files)
    try:
        fd = files.open_read(path)
        try:
            raw = _header_bytes(files, fd, status.st_size, quoted(name))
        finally:
            files.close(fd)
    except OSError as error:
        raise IOFailed(f"cannot read the header of {quoted(name)}: {error.strerror}") from error
    return read_shard_header(name, raw, status.st_size)


def read_unlisted_header(folder: Path, name: str, files: FileReads) -> ShardHeader:
    """Read the header of a file that the index leaves out, which may be anything."""
    try:
        return read_local_header(folder, name, files)
    except (BadCheckpoint, IOFailed):
        with convert_os_errors(quoted(name)):
            return placeholder_header(name, resolve_file(folder, name, files)[1].st_size)


def _header_length(files: FileReads, fd: int, size: int, label: str) -> int:
    """Read the length in bytes of a shard's header; `label` names the shard in errors."""
    prefix = memoryview(bytearray(LENGTH_BYTES))
    count = files.read_into(fd, prefix, 0)
    return header_length(bytes(prefix[:count]), size, label)


def digest_of_open_shard(files: FileReads, fd: int, size: int, label: str) -> str:
    """Return the digest of the header of an open shard, which is read block by block.

    Args:
        files: The file operations.
        fd: The descriptor of the shard.
        size: Its size in bytes.
        label: Names the shard in errors.
    """
    from xxhash import xxh3_128

    digest = xxh3_128()
    end = LENGTH_BYTES + _header_length(files, fd, size, label)
    block = memoryview(bytearray(min(DIGEST_BLOCK, end)))
    for offset in range(LENGTH_BYTES, end, len(block)):
        part = block[: end - offset]
        digest.update(part[: files.read_into(fd, part, offset)])
    return digest.hexdigest()


def _header_bytes(files: FileReads, fd: int, size: int, label: str) -> bytes:
    """Read the JSON of a shard's header; `label` names the shard in errors."""
    raw = bytearray(_header_length(files, fd, size, label))
    if files.read_into(fd, memoryview(raw), LENGTH_BYTES) < len(raw):
        raise BadCheckpoint(f"{label}: the file ends inside its header")
    return bytes(raw)
