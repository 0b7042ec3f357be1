"""The files of a checkpoint that describe it: its index, its manifest, and their contradictions."""

from collections.abc import Iterator, Mapping
from typing import Any

from streamconv.checkpoint.casting import Casting
from streamconv.checkpoint.manifest import recorded_casting
from streamconv.checkpoint.types import INDEX, MANIFEST, OtherFile
from streamconv.errors import BadCheckpoint, quoted
from streamconv.formats.strict_json import check_json_size, parse_json_object
from streamconv.sources.base import Source
from streamconv.verification.result import Difference


def is_description(other: OtherFile) -> bool:
    """Return True if a file describes the output itself, or is an entry for an empty folder.

    Such a file is not expected in the source: index and manifest differ from run to run. Journals
    are in no result: the last step before the commit moves them away.
    """
    return other.name in (INDEX, MANIFEST) or other.name.endswith("/")


def has_files(source: Source) -> bool:
    """Return True if a checkpoint has files without tensors; a DCP has those of its template."""
    return source.checkpoint.format != "dcp" or source.checkpoint.template is not None


def index_differences(output: Source) -> Iterator[Difference]:
    """Compare the index, if there is one, with the tensors: the names, and the total size.

    That it names the right files was checked when the checkpoint was opened.
    """
    index = _find(output, INDEX)
    if index is None:
        return
    for name in output.checkpoint.unindexed:
        yield Difference(INDEX, f"does not list tensor {quoted(name)}")
    try:
        metadata = read_json(output, index).get("metadata", {})
    except BadCheckpoint as error:
        yield Difference(INDEX, error.message)
        return
    total_size = metadata.get("total_size") if isinstance(metadata, dict) else metadata
    expected = output.checkpoint.total_bytes
    if total_size is not None and (type(total_size) is not int or total_size != expected):
        said = quoted(str(total_size))
        yield Difference(INDEX, f"says total_size = {said}, the tensors take {expected}")


def read_manifest(output: Source) -> Mapping[str, Any] | None:
    """Read the manifest; None if there is none. Raises BadCheckpoint if it is not JSON.

    It is a file of its own, except in a DCP, where it is part of the metadata.
    """
    manifest = _find(output, MANIFEST)
    if manifest is not None:
        return read_json(output, manifest)
    return output.checkpoint.manifest or None


def read_casting(output: Source) -> Casting:
    """Read from the manifest which casts were made. Raises BadCheckpoint if it is malformed."""
    return recorded_casting(read_manifest(output) or {})


def read_json(source: Source, other: OtherFile) -> dict[str, Any]:
    """Read a file that holds a JSON object. Raises BadCheckpoint if it holds something else."""
    check_json_size(other.size, quoted(other.name))
    buffer = memoryview(bytearray(other.size))
    count = source.read_other(other, buffer, 0)
    return parse_json_object(bytes(buffer[:count]), quoted(other.name))


def _find(source: Source, name: str) -> OtherFile | None:
    return next((other for other in source.checkpoint.others if other.name == name), None)
