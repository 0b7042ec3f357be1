"""Which paths of a folder may be removed: those of a checkpoint, and those of a run.

A path of a former target may be removed if it is

- in the manifest of the target, `streamconv.json`, or
- in the table of files that checkpoints have, if the target is a checkpoint: config.json and
  weights are in it, or the files of a DCP, or
- code at the top of the target that `auto_map` in one of its configs names.

A path of a partial folder may be removed if the plan of this run or the journals of earlier ones
name it, or if any conversion may write it.
"""

import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unicodedata import normalize

from streamconv.catalog.checkpoint_files import (
    CODE_SUFFIX,
    CONFIG,
    PathPatterns,
    checkpoint_files,
    holds_checkpoint,
    output_files,
)
from streamconv.catalog.presets import presets
from streamconv.checkpoint.file_records import printable
from streamconv.checkpoint.manifest import recorded_names
from streamconv.checkpoint.types import MANIFEST
from streamconv.errors import BadCheckpoint
from streamconv.formats.strict_json import MAX_JSON_BYTES, parse_json_object
from streamconv.planning.plan import Plan
from streamconv.sinks.folder_contents import KnownPaths
from streamconv.sinks.journal import Journal
from streamconv.sinks.run_paths import RunPaths
from streamconv.system.file_ops import Files

AUTO_MAP = "auto_map"
CONFIGS = (
    *(CONFIG, "tokenizer_config.json", "processor_config.json", "preprocessor_config.json"),
    *("video_preprocessor_config.json", "generation_config.json"),
)
"""The files in which `auto_map` names code."""
EVIDENCE = (MANIFEST, *CONFIGS)
"""The files that tell what else belongs to a checkpoint. They are removed last, so that a removal
that was cut short can be completed."""
MAX_CONFIG_BYTES = 2**24


class NamedPaths:
    """Paths that are named one by one, paths that patterns name, and the folders above them."""

    def __init__(
        self, names: Iterable[str], patterns: PathPatterns, *, all_folders: bool = False
    ) -> None:
        """Take names and patterns.

        Args:
            names: Paths of files, as a manifest has them.
            patterns: Patterns of more files.
            all_folders: True if every folder may be removed that is empty.
        """
        self._names = frozenset(names)
        self._folders = frozenset(
            str(above) for name in self._names for above in Path(name).parents
        )
        self._patterns = patterns
        self._all_folders = all_folders

    def names_file(self, name: str) -> bool:
        return printable(name) in self._names or self._patterns.names_file(name)

    def names_folder(self, name: str) -> bool:
        return (
            self._all_folders
            or printable(name) in self._folders
            or self._patterns.names_folder(name)
        )


class AllPaths:
    """Every path, to list a folder as it is."""

    def names_file(self, name: str) -> bool:
        return True

    def names_folder(self, name: str) -> bool:
        return True


class TableFiles(PathPatterns):
    """The table of the files that checkpoints have, without code."""

    def __init__(self) -> None:
        self._table = checkpoint_files()

    def names_file(self, name: str) -> bool:
        return not name.endswith(CODE_SUFFIX) and self._table.names_file(name)

    def names_folder(self, name: str) -> bool:
        return self._table.names_folder(name)


def checkpoint_paths(folder: Path, files: Files, *, is_being_removed: bool = False) -> KnownPaths:
    """Return the paths of a folder that belong to the checkpoint in it.

    Args:
        folder: The folder of a former target.
        files: The file operations.
        is_being_removed: An earlier run has found that it is a checkpoint, and may have removed
            some of it.

    Raises:
        OSError: The folder cannot be read.
    """
    names = {*_manifest_names(folder, files), *_code_names(folder, files)}
    is_checkpoint = is_being_removed or holds_checkpoint(_file_names(folder, files))
    patterns = TableFiles() if is_checkpoint else PathPatterns(())
    return NamedPaths(names, patterns, all_folders=is_being_removed)


def partial_paths(plan: Plan, journals: Iterable[Journal]) -> KnownPaths:
    """Return the paths of a partial folder that runs have written.

    Args:
        plan: The conversion of this run.
        journals: The journals of earlier runs.
    """
    names = {shard.name for shard in plan.shards} | {other.name for other in plan.copied}
    for journal in journals:
        copied = journal.facts.get("other files")
        names |= {*journal.finished, *(copied if isinstance(copied, Mapping) else ())}
    return _PartialPaths((normalize("NFC", printable(name)) for name in names), output_files())


def is_evidence(name: str) -> bool:
    """Return True for the files of a checkpoint that are removed last."""
    return name in EVIDENCE


class _PartialPaths(NamedPaths):
    """The paths of a partial folder, which has journals, too. Some systems list another form."""

    def names_file(self, name: str) -> bool:
        return RunPaths.is_journal(name) or super().names_file(normalize("NFC", name))

    def names_folder(self, name: str) -> bool:
        return super().names_folder(normalize("NFC", name))


def _file_names(folder: Path, files: Files) -> set[str]:
    """Return the regular files at the top of a folder, and in those of presets."""
    found = set()
    for below in ("", *(f"{preset.folder}/" for preset in presets().values())):
        if files.is_folder(folder / below):
            rows = files.scan(folder / below)
            found |= {f"{below}{name}" for name, status in rows if stat.S_ISREG(status.st_mode)}
    return found


def _manifest_names(folder: Path, files: Files) -> Iterator[str]:
    """Return the names of all files that the manifest of a folder lists, itself included."""
    return recorded_names(read_object(folder / MANIFEST, MAX_JSON_BYTES, files))


def _code_names(folder: Path, files: Files) -> Iterator[str]:
    """Yield the names of the code that the configs of a folder name."""
    for config in CONFIGS:
        for reference in _texts(read_object(folder / config, MAX_CONFIG_BYTES, files)):
            module = reference.rpartition("--")[2].partition(".")[0]
            if module.isidentifier():
                yield f"{module}{CODE_SUFFIX}"


def _texts(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the texts in `auto_map`: each a class, with its module and maybe a repository."""
    auto_map = config.get(AUTO_MAP)
    for value in auto_map.values() if isinstance(auto_map, Mapping) else ():
        yield from (
            text
            for text in (value if isinstance(value, list) else [value])
            if isinstance(text, str)
        )


def read_object(path: Path, most: int, files: Files) -> Mapping[str, Any]:
    """Read a file with a JSON object; empty if it is no regular file, too large, or malformed."""
    content = read_regular(path, most, files)
    try:
        return {} if content is None else parse_json_object(content, path.name)
    except BadCheckpoint:
        return {}


def read_regular(path: Path, most: int, files: Files) -> bytes | None:
    """Read a file of at most so many bytes; None if it is larger, no regular file, or missing."""
    if not files.exists(path, follow=False):
        return None
    try:
        status = files.stat(path, follow=False)
        if not stat.S_ISREG(status.st_mode) or status.st_size > most:
            return None
        return files.read_file(path, most)
    except FileNotFoundError:
        return None
