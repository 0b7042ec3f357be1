"""Refuses a run that would remove or overwrite what it reads.

A run may remove, rename or overwrite its target, the files next to it that have a name of
`run_paths`, and everything below them. It reads the source, the template, and the file of families.
Each path of the one kind is compared with each of the other by device and inode, for all folders on
the way to it, so that links, `..`, and bind mounts make no difference.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from streamconv.errors import OutputExists, quoted
from streamconv.options import Reading
from streamconv.planning.plan import Plan
from streamconv.sinks.run_paths import RunPaths
from streamconv.sources.fsspec_paths import ANYWHERE
from streamconv.system.absolute_paths import absolute_path
from streamconv.system.identity import Identity, identities_on_the_way, identity_of


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
        for identity in (*identities_on_the_way(read.path), *_identities_below(read)):
            if identity in changed:
                _refuse(paths, changed[identity], read)
        if any(identity in above for identity in _folders(read)):
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
        for identity in (*identities_on_the_way(read.path), *_identities_below(read)):
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


def _identities_below(read: ReadPath) -> Iterator[Identity]:
    """Yield the identities of the files below a path, and of all that links lead through."""
    folder = read.path if read.path.is_dir() else read.path.parent
    for below in {parent for name in read.names for parent in Path(name).parents}:
        yield from identities_on_the_way(folder / below)
    for name in read.names:
        path = folder / name
        if path.is_symlink():
            yield from identities_on_the_way(path)
        elif (identity := identity_of(path)) is not None:
            yield identity


def _folders(read: ReadPath) -> Iterator[Identity]:
    """Yield the identities of the folder that is read, and of those in it that hold its files."""
    if not read.path.is_dir():
        return
    below = {parent for name in read.names for parent in Path(name).parents}
    for folder in {Path(), *below}:
        identity = identity_of(read.path / folder)
        if identity is not None:
            yield identity


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
