"""Finds the DCP in the folder of a training run.

A location is the folder of one save, or of a run whose tracker file names the last save:

    run/                                        run/
      latest_checkpointed_iteration.txt: 7        latest_checkpointed_iteration.txt: release
      iter_0000007/                               release/
        .metadata                                   .metadata
        __0_0.distcp                                __0_0.distcp
"""

from pathlib import Path

from streamconv.catalog.foreign_files import explain
from streamconv.errors import BadCheckpoint, quoted
from streamconv.formats.dcp_metadata import DATA_SUFFIX, METADATA_FILE
from streamconv.sources.no_checkpoint import no_tensors
from streamconv.sources.safe_paths import convert_os_errors, resolve_file
from streamconv.system.file_reads import FileReads
from streamconv.system.linux_file_ops import system_files

TRACKER = "latest_checkpointed_iteration.txt"
"""The file in which a training framework notes its last save: `release`, or an iteration."""
MAX_TRACKER_BYTES = 64
RELEASE = "release"


def find_dcp(location: str, files: FileReads | None = None) -> Path | None:
    """Return the folder of the DCP at `location` or below it, or None if there is none.

    Raises:
        BadCheckpoint: A save was not finished, or the tracker does not lead to one.
        IOFailed: The file system refuses to answer.
    """
    files = files or system_files()
    folder = Path(location)
    with convert_os_errors(location):
        if files.exists(folder / METADATA_FILE):
            return folder
        if files.exists(folder / TRACKER):
            return _last_save(location, folder, files)
        if files.is_folder(folder) and any(n.endswith(DATA_SUFFIX) for n in files.names(folder)):
            raise BadCheckpoint(
                f"cannot read {location}: it has files of a DCP and no {METADATA_FILE}, so saving "
                "it was not finished",
                "use an earlier save of the run",
            )
    return None


def _last_save(location: str, folder: Path, files: FileReads) -> Path:
    """Return the folder that the tracker in `folder` names. Raises BadCheckpoint."""
    text = _read_tracker(folder, files)
    if text == RELEASE:
        name = RELEASE
    elif text.isascii() and text.isdecimal():
        name = f"iter_{int(text):07d}"
    else:
        raise BadCheckpoint(
            f"cannot read {location}: {TRACKER} says {quoted(text)}, neither `{RELEASE}` nor a "
            "number",
            f"give the folder of one save, which holds {METADATA_FILE}",
        )
    if not files.exists(folder / name / METADATA_FILE):
        inside = files.names(folder / name) if files.is_folder(folder / name) else []
        if explain(inside):
            raise no_tensors(f"{location}/{name}", inside)
        raise BadCheckpoint(
            f"cannot read {location}: {TRACKER} says {quoted(text)}, and {name} holds no "
            f"{METADATA_FILE}",
            f"give the folder of one save, which holds {METADATA_FILE}",
        )
    return folder / name


def _read_tracker(folder: Path, files: FileReads) -> str:
    """Return the text of the tracker, at most `MAX_TRACKER_BYTES` of it."""
    path, _ = resolve_file(folder, TRACKER, files)
    buffer = memoryview(bytearray(MAX_TRACKER_BYTES))
    fd = files.open_read(path)
    try:
        count = files.read_into(fd, buffer, 0)
    finally:
        files.close(fd)
    return bytes(buffer[:count]).decode("ascii", "replace").strip()
