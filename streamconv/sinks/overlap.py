"""Refuses a run that would remove or overwrite what it reads.

A run may remove, rename or overwrite its target, the files next to it that have a name of
`run_paths`, and everything below them. It reads the source, the template, and the file of families.
Each path of the one kind is compared with each of the other by device and inode, for all folders on
the way to it, so that links, `..`, and bind mounts make no difference. Where one entry of a folder
may be spelled in several ways, each with its own inode, the names are compared, too (`spellings`).
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from streamconv.errors import OutputExists, quoted
from streamconv.options import Reading
from streamconv.planning.plan import Plan
from streamconv.sinks.run_paths import RunPaths
from streamconv.sources.fsspec_paths import ANYWHERE
from streamconv.system.absolute_paths import absolute_path
from streamconv.system.identity import Identity, identities_on_the_way, identity_of
from streamconv.system.spellings import listed_alike, spelled_twice


@dataclass(frozen=True, slots=True)
class ReadPath:
    """A path that a run reads."""

    role: str
    """Its name in messages: the source, or an option."""
    path: Path
    names: tuple[str, ...] = ()
    """The files below it that are read."""


def option_paths(options: Reading) -> tuple[ReadPath, ...]:
    """Return the paths that options name, apart from checkpoints: a file of families."""
    family = options.get("family")
    return () if family is None else (ReadPath("--family", absolute_path(family)),)


def source_paths(plan: Plan) -> tuple[ReadPath, ...]:
    """Return the paths of this machine that a plan's checkpoint and template are read from.

    Args:
        plan: The conversion.
    """
    checkpoint, template = plan.checkpoint, plan.checkpoint.template
    listed = [*(f.name for f in checkpoint.files), *(f.name for f in checkpoint.others)]
    names = tuple(name for name in listed if _is_below(name))
    found = [("source", Path(path)) for path in checkpoint.local_paths]
    if template is not None:
        found += [("--template", Path(path)) for path in template.local_paths]
    return tuple(ReadPath(role, path, () if path.is_file() else names) for role, path in found)


def _is_below(name: str) -> bool:
    """Return True if a name can be that of a file; an entry of a DCP may have any name."""
    path = Path(name)
    return not path.is_absolute() and ".." not in path.parts


def check_apart(paths: RunPaths, reads: Iterable[ReadPath]) -> None:
    """Check that a run removes nothing that it reads, and writes nothing into it.

    Args:
        paths: The paths of the run.
        reads: The paths that it reads.

    Raises:
        OutputExists: Two of them overlap.
        OSError: A folder refuses to answer.
    """
    changed = {
        identity: path
        for path in (paths.target, paths.partial, paths.replaced, *_own_files(paths))
        if (identity := identity_of(path)) is not None
    }
    above = identities_on_the_way(paths.target)
    for read in reads:
        seen = identities_on_the_way(read.path) | _identities_below(read)
        for identity in seen:
            if identity in changed:
                _refuse(paths, changed[identity], read)
        if spellings := spelled_twice(seen, above | changed):
            _refuse_spellings(paths, *spellings, read)
        if any(identity in above for identity in _folders(read)):
            _refuse(paths, paths.target, read)


def check_elsewhere(
    paths: RunPaths, is_parent: Callable[[Path], bool], reads: Iterable[ReadPath]
) -> None:
    """Check that nothing is read through the target by another mount of its file system.

    Device and inode of the two differ, as for a folder that this host has exported and mounted
    again. But what the run has made next to its target shows by both.

    Args:
        paths: The paths of the run.
        is_parent: Returns True if a folder, by whatever path, is the one that holds the target.
        reads: The paths that the run reads.

    Raises:
        OutputExists: Something is read from the target, or the target is in what is read.
        OSError: A folder refuses to answer.
    """
    changed = {path.name: path for path in (paths.target, paths.partial, paths.replaced)}
    for read in reads:
        for step in (identities_on_the_way(read.path) | _identities_below(read)).values():
            is_named = listed_alike(step.name, changed) is not None
            if is_named and step.parent != paths.parent and is_parent(step.parent):
                _refuse(paths, step, read)
        if read.path.is_dir() and is_parent(read.path):
            _refuse(paths, paths.target, read)


def check_not_read(
    paths: RunPaths, removed: Iterable[tuple[Path, Identity]], reads: Iterable[ReadPath]
) -> None:
    """Check that nothing that will be removed is read, under whatever name.

    Args:
        paths: The paths of the run.
        removed: Files and folders that will be removed, with the identity of each.
        reads: The paths that the run reads.

    Raises:
        OutputExists: One of them is read, or leads to something that is.
        OSError: A folder refuses to answer.
    """
    changed = {identity: path for path, identity in removed}
    if not changed:
        return
    for read in reads:
        for identity in identities_on_the_way(read.path) | _identities_below(read):
            if identity in changed:
                _refuse(paths, changed[identity], read)


def _own_files(paths: RunPaths) -> Iterator[Path]:
    """Yield the files next to the target whose names belong to runs."""
    try:
        names = [path.name for path in paths.parent.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        if paths.is_lock(name) or paths.is_moved(name):
            yield paths.parent / name


def _identities_below(read: ReadPath) -> dict[Identity, Path]:
    """Return the identities of the files below a path, and of all that links lead through."""
    found: dict[Identity, Path] = {}
    folder = read.path if read.path.is_dir() else read.path.parent
    for below in {parent for name in read.names for parent in Path(name).parents}:
        found |= identities_on_the_way(folder / below)
    for name in read.names:
        path = folder / name
        if path.is_symlink():
            found |= identities_on_the_way(path)
        elif (identity := identity_of(path)) is not None:
            found[identity] = path
    return found


def _folders(read: ReadPath) -> Iterator[Identity]:
    """Yield the identities of the folder that is read, and of those in it that hold its files."""
    if not read.path.is_dir():
        return
    below = {parent for name in read.names for parent in Path(name).parents}
    for folder in {Path(), *below}:
        identity = identity_of(read.path / folder)
        if identity is not None:
            yield identity


def _refuse_spellings(paths: RunPaths, one: Path, other: Path, read: ReadPath) -> NoReturn:
    """Raise the OutputExists that names both spellings of an entry."""
    raise OutputExists(
        f"cannot write to {quoted(str(paths.target))}: {read.role} and target lead through "
        f"{quoted(str(one))} and {quoted(other.name)}, which are two spellings of one name there",
        "spell both paths as the folder lists them, and name a target that does not overlap "
        f"{read.role}",
    )


def _refuse(paths: RunPaths, changed: Path, read: ReadPath) -> None:
    """Raise the OutputExists that names both paths, each of them once."""
    origin = quoted(str(read.path))
    if read.path == ANYWHERE:
        fact = f"{read.role} may be read from any folder of this machine"
    elif changed == read.path == paths.target:
        fact = f"target and {read.role} overlap"
    elif changed == read.path:
        fact = f"{read.role} {origin} and the files that the run may remove overlap"
    elif changed == paths.target:
        fact = f"target and {read.role} {origin} overlap"
    else:
        fact = f"{quoted(str(changed))}, which the run may remove, and {read.role} {origin} overlap"
    raise OutputExists(
        f"cannot write to {quoted(str(paths.target))}: {fact}",
        f"name a target that does not overlap {read.role}, or move one of them away",
    )
