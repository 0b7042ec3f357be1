"""The files of a checkpoint that describe it: its index, its manifest, and their contradictions."""

from collections.abc import Iterator, Mapping
from typing import Any

from streamconv.checkpoint.casting import Casting
from streamconv.checkpoint.manifest import recorded_casting
from streamconv.checkpoint.types import INDEX, MANIFEST, OtherFile
from streamconv.errors import quoted
from streamconv.formats.dcp_metadata import METADATA_FILE
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


def files_beside(source: Source) -> list[OtherFile]:
    """Return the files next to those that hold tensors. In a DCP, anybody may have put them."""
    others = source.checkpoint.others
    return [each for each in others if not each.is_entry and not each.name.endswith("/")]


def unchecked_files(source: Source, output: Source) -> Iterator[str]:
    """Yield why files without tensors are not compared, if one side is a DCP.

    A DCP that streamconv wrote has none, so those next to such an output are differences. Next to
    another one, or to a source, may be anything: it does not say what belongs to it.
    """
    dcps = [each for each in (source, output) if not has_files(each)]
    if dcps and not any(map(files_beside, dcps)):
        yield "files without tensors: a DCP has none"
    elif source in dcps or (dcps and read_manifest(output) is None):
        yield "files without tensors: those next to a DCP may be another program's"


def index_differences(output: Source) -> Iterator[Difference]:
    """Compare the index, if there is one, with the tensors: the names, and the total size.

    That it names the right files was checked when the checkpoint was opened. One that lies
    in the folder of a DCP is of another checkpoint.
    """
    index = _find(output, INDEX)
    if index is None or output.checkpoint.format == "dcp":
        return
    for name in output.checkpoint.unindexed:
        yield Difference(INDEX, f"does not list tensor {quoted(name)}")
    # it is not read again: parsed, it takes as much memory as what the verification holds
    total_size, expected = output.checkpoint.index_total_size, output.checkpoint.total_bytes
    if total_size is not None and (type(total_size) is not int or total_size != expected):
        said = quoted(str(total_size))
        yield Difference(INDEX, f"says total_size = {said}, the tensors take {expected}")


def read_manifest(output: Source) -> Mapping[str, Any] | None:
    """Read the manifest; None if there is none. Raises BadCheckpoint if it is not JSON.

    It is a file of its own, except in a DCP, where it is part of the metadata.
    """
    if output.checkpoint.format == "dcp":
        return output.checkpoint.manifest or None
    manifest = _find(output, MANIFEST)
    return None if manifest is None else read_json(output, manifest)


def manifest_file(output: Source) -> str:
    """Return the name of the file that holds the manifest, if there is one."""
    return METADATA_FILE if output.checkpoint.format == "dcp" else MANIFEST


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
