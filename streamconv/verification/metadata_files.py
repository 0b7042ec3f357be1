"""What a checkpoint's files say of each other, apart from the bytes of its tensors."""

from collections.abc import Iterator, Mapping
from typing import Any

from streamconv.checkpoint.casting import Casting
from streamconv.checkpoint.types import INDEX, JOURNAL_PREFIX, MANIFEST, OtherFile
from streamconv.errors import BadCheckpoint, quoted
from streamconv.formats.strict_json import check_json_size, parse_json_object
from streamconv.sources.base import Source
from streamconv.verification.result import Difference


def is_description(other: OtherFile) -> bool:
    """Whether a file describes the output's own tensors or making, or is a folder of a tool's."""
    own = other.name in (INDEX, MANIFEST) or other.name.startswith(JOURNAL_PREFIX)
    return own or other.name.endswith("/")


def has_files(source: Source) -> bool:
    """Whether other files belong to a checkpoint; to a DCP do those of its template."""
    return source.checkpoint.format != "dcp" or source.checkpoint.template is not None


def index_differences(output: Source) -> Iterator[Difference]:
    """What is wrong with the index, where there is one; that it names the right files has been
    seen when the checkpoint was opened."""
    index = next((other for other in output.checkpoint.others if other.name == INDEX), None)
    if index is None:
        return
    try:
        metadata = read_json(output, index).get("metadata", {})
    except BadCheckpoint as error:
        yield Difference(INDEX, error.message)
        return
    said = metadata.get("total_size") if isinstance(metadata, dict) else metadata
    total = output.checkpoint.total_bytes
    if said is not None and (type(said) is not int or said != total):
        yield Difference(INDEX, f"says total_size = {quoted(str(said))}, the tensors take {total}")


def read_manifest(output: Source) -> Mapping[str, Any] | None:
    """What the manifest says, or None where there is none. Raises BadCheckpoint."""
    manifest = next((other for other in output.checkpoint.others if other.name == MANIFEST), None)
    if manifest is not None:
        return read_json(output, manifest)
    return output.checkpoint.manifest or None


def read_casting(output: Source) -> Casting:
    """Read the casts that were made from the manifest; raises BadCheckpoint if it is malformed."""
    return Casting.from_json((read_manifest(output) or {}).get("casting"), MANIFEST)


def read_json(source: Source, other: OtherFile) -> dict[str, Any]:
    """A JSON object beside the tensors. Raises BadCheckpoint where it is none."""
    check_json_size(other.size, quoted(other.name))
    buffer = memoryview(bytearray(other.size))
    count = source.read_other(other, buffer, 0)
    return parse_json_object(bytes(buffer[:count]), quoted(other.name))
