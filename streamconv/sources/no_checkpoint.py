"""Why there is no checkpoint at a location, and what may have been meant.

Each function returns an error that names what was found, and a hint with the way on.
"""

import re
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath

from streamconv.catalog.checkpoint_files import CONFIG
from streamconv.catalog.foreign_files import explain
from streamconv.checkpoint.types import INDEX_SUFFIX, MANIFEST
from streamconv.errors import BadCheckpoint, NoCheckpoint, UsageError, did_you_mean, quoted
from streamconv.formats.dcp_metadata import DATA_SUFFIX, METADATA_FILE
from streamconv.sources.safe_paths import SHARD_SUFFIX
from streamconv.system.file_reads import FileReads

GIVE_A_FOLDER = "give the folder of a checkpoint, or hf://org/name for one of the hub"
HUB = "hf://"
MANY_FOLDERS = 200
"""How many folders are searched for a checkpoint at most."""
_REPOSITORY = re.compile(r"(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>[\w./-]+))?")
_PAGE = re.compile(
    r"(?:https?:/{0,2})?(?:www\.)?(?:huggingface\.co|hf\.co|hf-mirror\.com)/+(?:api/models/|models/)?"
    r"(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)"
    r"(?:/(?:tree|blob|resolve|raw|commit)/(?P<revision>[\w.-]+))?(?:[/?#].*)?",
    re.IGNORECASE,
)
_MISSPELT = re.compile(r"(?:hf|huggingface|hub):/*(?P<rest>.+)", re.IGNORECASE)
_NO_MODELS = ("datasets/", "spaces/", "docs/", "blog/", "papers/", "collections/")


def hub_location(location: str) -> str:
    """Return the `hf://org/name` that a page of the hub or a misspelt location means, or ""."""
    misspelt = None if location.startswith(HUB) else _MISSPELT.fullmatch(location)
    match = _PAGE.fullmatch(location)
    match = match or (_REPOSITORY.fullmatch(misspelt["rest"]) if misspelt else None)
    if match is None or match["name"].startswith(_NO_MODELS):
        return ""
    revision = match["revision"]
    return f"{HUB}{match['name']}" + (f"@{revision}" if revision not in (None, "main") else "")


def page_of_hub(location: str, meant: str) -> UsageError:
    """Return the error for the address of a page; `meant` is what `hub_location` returned."""
    return UsageError(
        f"cannot open {quoted(location)}: a repository of the hub has another address here",
        f"did you mean {quoted(meant)}?",
    )


def no_such_path(location: str, files: FileReads) -> NoCheckpoint:
    """Return the error for a path that does not exist, with the one that was meant."""
    return NoCheckpoint(f"cannot read {location}: it does not exist", _meant(location, files))


def _meant(location: str, files: FileReads) -> str:
    """Return which path or repository may have been meant, or what to give."""
    path = Path(location)
    try:
        siblings = files.names(path.parent) if files.is_folder(path.parent) else []
    except OSError:
        siblings = []
    meant = did_you_mean(path.name, siblings)
    if meant:
        name = meant.removeprefix("did you mean ").removesuffix("?")
        return f"did you mean {quoted(str(path.parent / name))}?"
    repository = _REPOSITORY.fullmatch(location)
    if repository is not None and not siblings:
        return f"did you mean {quoted(HUB + location)}, a repository of the hub?"
    return GIVE_A_FOLDER


def not_a_folder(location: str) -> NoCheckpoint:
    """Return the error for a file that is not safetensors."""
    path = Path(location)
    cannot = f"cannot read {location}: it is a file"
    if path.name.endswith((CONFIG, INDEX_SUFFIX, METADATA_FILE, DATA_SUFFIX)):
        return NoCheckpoint(f"{cannot} of a checkpoint", f"give its folder, {_folder(path)}")
    if explained := explain([path.name]):
        kind, _ = explained
        return NoCheckpoint(f"{cannot}: {kind.says}", kind.way)
    return NoCheckpoint(cannot, GIVE_A_FOLDER)


def part_of_checkpoint(location: str, count: int) -> BadCheckpoint:
    """Return the error for one of several files of a checkpoint."""
    return BadCheckpoint(
        f"cannot read {location} alone: it is one of {count} files of a checkpoint",
        f"give its folder, {_folder(Path(location))}",
    )


def _folder(path: Path) -> str:
    return quoted(str(path.parent))


def no_tensors(location: str, names: Collection[str], inner: Iterable[str] = ()) -> BadCheckpoint:
    """Return the error for a folder without safetensors.

    It is a NoCheckpoint, unless the folder has other files of a checkpoint.

    Args:
        location: The folder.
        names: The names of everything in it.
        inner: Folders in it that hold a checkpoint.
    """
    cannot = f"cannot read {location}: there is no *.safetensors in it, and no index"
    if MANIFEST in names:
        return BadCheckpoint(cannot, "restore the files that the manifest lists")
    if not names:
        return NoCheckpoint(
            cannot,
            "download a checkpoint into this empty folder, or read one of the hub as hf://org/name",
        )
    found = [quoted(str(PurePosixPath(location) / name)) for name in inner]
    if found:
        return NoCheckpoint(cannot, f"did you mean {' or '.join(found[:3])}?")
    if explained := explain(names):
        kind, name = explained
        return NoCheckpoint(f"{cannot}; {quoted(name)} is {kind.says}", kind.way)
    if CONFIG in names:
        return BadCheckpoint(
            f"{cannot}; {CONFIG} is there, the weights are not",
            "download the weights, too, or read the checkpoint as hf://org/name",
        )
    return NoCheckpoint(cannot, GIVE_A_FOLDER)


def inner_checkpoints(folder: Path, names: Iterable[str], files: FileReads) -> list[str]:
    """Return the folders right below a folder, or in its `snapshots`, that hold a checkpoint."""
    found = []
    for name in sorted(names)[:MANY_FOLDERS]:
        try:
            if not files.is_folder(folder / name):
                continue
            inside = files.names(folder / name)
            if name == "snapshots":
                found += [f"{name}/{each}" for each in sorted(inside)]
            elif any(
                n.endswith((SHARD_SUFFIX, INDEX_SUFFIX)) or n == METADATA_FILE for n in inside
            ):
                found.append(name)
        except OSError:
            continue
    return found
