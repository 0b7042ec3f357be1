"""What the manifest of a result says of its shards, to tell it from another result."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from streamconv.checkpoint.types import MANIFEST
from streamconv.errors import BadCheckpoint
from streamconv.formats.dcp_metadata import METADATA_FILE
from streamconv.formats.dcp_metadata_limits import MAX_METADATA_BYTES
from streamconv.formats.strict_json import MAX_JSON_BYTES
from streamconv.sinks.known_paths import read_object, read_regular
from streamconv.system.file_ops import Files


def recorded_pieces(folder: Path, shards: Iterable[str], files: Files) -> dict[str, list[Any]]:
    """Return the rows of the pieces that the manifest of a folder has for each shard.

    A shard whose rows are malformed is left out; so are all of them if no manifest can be read.

    Args:
        folder: The folder of the result.
        shards: The names of its shards. The metadata of a DCP, which hold its manifest, are in the
            same folder as these.
        files: The file operations.
    """
    found = {}
    for manifest in _manifests(folder, shards, files):
        listed = manifest.get("shards")
        for name, shard in listed.items() if isinstance(listed, Mapping) else ():
            if isinstance(shard, Mapping) and isinstance(shard.get("pieces"), list):
                found[name] = shard["pieces"]
    return found


def _manifests(folder: Path, shards: Iterable[str], files: Files) -> Iterator[Mapping[str, Any]]:
    yield read_object(folder / MANIFEST, MAX_JSON_BYTES, files)
    for above in {Path(name).parent for name in shards}:
        content = read_regular(folder / above / METADATA_FILE, MAX_METADATA_BYTES, files)
        if content is not None:
            yield _manifest_in(content)


def _manifest_in(content: bytes) -> Mapping[str, Any]:
    """Return the manifest in the metadata of a DCP; empty if there is none, or they are damaged."""
    from streamconv.formats.dcp_metadata_reader import read_metadata
    from streamconv.sources.training_state import read_streamconv_metadata

    try:
        return read_streamconv_metadata(read_metadata(content, METADATA_FILE)).manifest
    except BadCheckpoint:
        return {}
