"""The files of a checkpoint that hold none of its tensors, and which of them are copied."""

import re
from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from streamconv.catalog.checkpoint_files import checkpoint_files
from streamconv.checkpoint.types import INDEX_SUFFIX, JOURNAL_PREFIX, MANIFEST, OtherFile
from streamconv.errors import BadCheckpoint, quoted
from streamconv.formats.dcp_metadata import DATA_SUFFIX, METADATA_FILE
from streamconv.sources.safe_paths import SHARD_SUFFIX, convert_os_errors, resolve_file
from streamconv.sources.training_run import TRACKER
from streamconv.system.file_reads import FileReads

WEIGHT_SUFFIXES = (
    SHARD_SUFFIX,
    *(".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", DATA_SUFFIX),
)
"""The formats of second copies of the weights."""
SECOND_COPIES = ("original",)
"""Subfolders that hold the weights again, whatever their size (gpt-oss, Llama)."""
SKIPPED = {
    MANIFEST: "describes the source",
    f"{JOURNAL_PREFIX}*": "the journal of a run that was not finished",
    f"*{INDEX_SUFFIX}": "the index of the source's shards",
    f"consolidated*{SHARD_SUFFIX}": "the weights in Mistral's own format",
    f"*{SHARD_SUFFIX}": "not in the index",
    f"*{DATA_SUFFIX}": "not in .metadata",
    f"{METADATA_FILE}*": "describes chunks of tensors",
    "pytorch_model*.bin": "the weights in a legacy format",
    "pytorch_model*.bin.index.json": "the index of the weights in a legacy format",
    TRACKER: "names the last save of a training run",
}
"""Patterns of top-level files that are not copied, and why: they describe or repeat the weights.

Nor is what is in a folder of such a name: a result has files of these names, or whoever opens it
looks for them."""
MAX_FOLDERS = 127
"""How deeply the folders of a file may be nested. A deeper path takes long to reach each time,
and other programs walk through folders by recursion."""
BOOKKEEPING = (".git", ".hg", ".jj", ".svn", ".cache/huggingface")
"""Folders of tools that describe this copy of the files and no other, in whatever folder they are.
Tools of version control run commands that are written there. `.git` may be a file that leads to
such a folder."""
_BOOKKEEPING = re.compile(
    rf"(?:.*?/)??(?:{'|'.join(map(re.escape, BOOKKEEPING))})(?=/|\Z)",
    re.DOTALL | re.IGNORECASE,  # `.GIT` is `.git` on systems that ignore case
)


def bookkeeping_entry(name: str) -> str:
    """Return the entry of the bookkeeping that a path is, or is in: `a/.git/`; empty if none."""
    found = _BOOKKEEPING.match(name)
    return f"{found[0]}/" if found else ""


def other_files(
    folder: Path, shards: set[str], files: FileReads, below: str = ""
) -> Iterator[OtherFile]:
    """Walk through a local folder: in every folder its files, then its subfolders.

    Args:
        folder: The folder of the checkpoint.
        shards: The files that are left out, as they hold tensors of the checkpoint.
        files: The file operations to use.
        below: The path in `folder` to start at, with a slash at its end.

    Yields:
        Every other file, without `skip_reason`. What is in `BOOKKEEPING` is one entry.

    Raises:
        BadCheckpoint: There is a link to a folder or out of the checkpoint, a special file, or a
            file below more than `MAX_FOLDERS` folders.
        IOFailed: The file system does not answer.
    """
    pending = [below]  # not recursive: folders may be nested more deeply than Python's calls
    while pending:
        below = pending.pop()
        if below.count("/") > MAX_FOLDERS:
            raise BadCheckpoint(
                f"cannot read {quoted(below)}: it lies below more than {MAX_FOLDERS} folders, one "
                "in the other"
            )
        folders = []
        with convert_os_errors(quoted(below) if below else str(folder)):
            names = files.names(folder / below)
        for name in (f"{below}{name}" for name in names):
            if entry := bookkeeping_entry(name):
                yield OtherFile(entry, 0)
                continue
            with convert_os_errors(quoted(name)):
                is_folder = files.is_folder(folder / name)
                if is_folder and files.is_link(folder / name):
                    raise BadCheckpoint(f"cannot read {quoted(name)}: it is a link to a folder")
            if is_folder:
                folders.append(f"{name}/")
            elif name not in shards:
                yield OtherFile(name, resolve_file(folder, name, files)[1].st_size)
        pending.extend(reversed(folders))


def describes_weights(name: str) -> bool:
    """Return True for a top-level file that describes weights next to it, such as config.json."""
    is_known = "/" not in name and checkpoint_files().names_file(name)
    return is_known and not name.endswith((*WEIGHT_SUFFIXES, INDEX_SUFFIX)) and name != MANIFEST


def select_copied_files(others: Collection[OtherFile], weight_bytes: int) -> Iterator[OtherFile]:
    """Yield all files. Each that is not copied gets the reason as its `skip_reason`.

    Args:
        others: All files of a checkpoint that hold none of its tensors.
        weight_bytes: Bytes of its tensors.
    """
    copies = _second_copies(others, weight_bytes)
    for other in others:
        yield OtherFile(other.name, other.size, _skip_reason(other.name, copies))


def _second_copies(others: Collection[OtherFile], weight_bytes: int) -> set[str]:
    """Return the top-level folders that hold a second copy of the weights.

    They are the known ones, and those with at least half as many bytes of weights.
    """
    sizes: dict[str, int] = {}
    for other in others:
        top, slash, _ = other.name.partition("/")
        if slash and other.name.endswith(WEIGHT_SUFFIXES):
            sizes[top] = sizes.get(top, 0) + other.size
    return {top for top, size in sizes.items() if top in SECOND_COPIES or 2 * size >= weight_bytes}


def _skip_reason(name: str, copies: set[str]) -> str:
    """Return why a file is not copied; empty if it is."""
    top, slash, _ = name.partition("/")
    if bookkeeping_entry(name):
        return "bookkeeping of a tool, about this copy of the files"
    reason = next((why for glob, why in SKIPPED.items() if fnmatchcase(top, glob)), "")
    if not slash:
        return reason
    if reason:
        return "in a folder with the name of a file that is not copied"
    is_weights = name.endswith((*WEIGHT_SUFFIXES, ".index.json"))
    return "a second copy of the weights" if top in copies and is_weights else ""
