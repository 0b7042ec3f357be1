"""The files of a checkpoint folder that hold none of its tensors: what travels along."""

from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from streamconv.checkpoint.types import INDEX_SUFFIX, JOURNAL_PREFIX, MANIFEST, OtherFile
from streamconv.errors import BadCheckpoint, quoted
from streamconv.formats.dcp_metadata import DATA_SUFFIX, METADATA_FILE
from streamconv.sources.safe_paths import SHARD_SUFFIX, convert_os_errors, resolve_file
from streamconv.system.file_ops import Files

WEIGHT_SUFFIXES = (
    SHARD_SUFFIX,
    *(".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", DATA_SUFFIX),
)
"""What second copies of the weights are stored in."""
SECOND_COPIES = ("original",)
"""Subfolders that hold the weights once more, whatever their size (gpt-oss, Llama)."""
LEFT_BEHIND = {
    MANIFEST: "describes the source",
    f"{JOURNAL_PREFIX}*": "the journal of a run that was not finished",
    f"*{INDEX_SUFFIX}": "the index of the source's shards",
    f"*{SHARD_SUFFIX}": "not in the index",
    f"*{DATA_SUFFIX}": "not in .metadata",
    f"{METADATA_FILE}*": "describes chunks of tensors",
    "pytorch_model*.bin": "the weights in a legacy format",
    "pytorch_model*.bin.index.json": "the index of the weights in a legacy format",
}
"""Files at the top level that describe or repeat the source's weights, and why they stay."""
BOOKKEEPING = (".git", ".cache/huggingface")
"""Folders of tools that describe this copy of the files and no other."""


def other_files(
    folder: Path, shards: set[str], files: Files, below: str = ""
) -> Iterator[OtherFile]:
    """Every file of a local folder that holds no tensor of this checkpoint: files, then folders.

    `below` is the path in it to begin at, with a slash at its end. Raises BadCheckpoint, IOFailed.
    """
    folders = []
    with convert_os_errors(quoted(below) if below else str(folder)):
        names = files.names(folder / below)
    for name in (f"{below}{name}" for name in names):
        with convert_os_errors(quoted(name)):
            is_folder = files.is_folder(folder / name)
            if is_folder and files.is_link(folder / name):
                raise BadCheckpoint(f"{quoted(name)} is a link to a folder")
        if name in BOOKKEEPING:
            yield OtherFile(f"{name}/", 0)
        elif is_folder:
            folders.append(f"{name}/")
        elif name not in shards:
            yield OtherFile(name, resolve_file(folder, name, files)[1].st_size)
    for name in folders:
        yield from other_files(folder, shards, files, name)


def select_copied_files(others: Collection[OtherFile], weight_bytes: int) -> Iterator[OtherFile]:
    """The other files of a checkpoint, each with whether it travels along. Pure."""
    copies = _second_copies(others, weight_bytes)
    for other in others:
        yield OtherFile(other.name, other.size, _why_left_behind(other.name, copies))


def _second_copies(others: Collection[OtherFile], weight_bytes: int) -> set[str]:
    """Subfolders with the weights once more: known ones, and those with half as many bytes."""
    sizes: dict[str, int] = {}
    for other in others:
        top, slash, _ = other.name.partition("/")
        if slash and other.name.endswith(WEIGHT_SUFFIXES):
            sizes[top] = sizes.get(top, 0) + other.size
    return {top for top, size in sizes.items() if top in SECOND_COPIES or 2 * size >= weight_bytes}


def _why_left_behind(name: str, copies: set[str]) -> str:
    """The reason, or nothing where the file travels along."""
    top, slash, _ = name.partition("/")
    if name.removesuffix("/") in BOOKKEEPING:
        return "bookkeeping of a tool, about this copy of the files"
    if slash:
        weights = name.endswith((*WEIGHT_SUFFIXES, ".index.json"))
        return "a second copy of the weights" if top in copies and weights else ""
    return next((why for glob, why in LEFT_BEHIND.items() if fnmatchcase(name, glob)), "")
