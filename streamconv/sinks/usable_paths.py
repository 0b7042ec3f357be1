"""Refuse paths that a run could not use to its end: of others, or that cannot be renamed."""

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from streamconv.errors import IOFailed, OutputExists, quoted
from streamconv.sinks.run_paths import RunPaths
from streamconv.system.file_ops import Files
from streamconv.system.mounts import is_mount_point
from streamconv.system.planted import PlantedFile
from streamconv.system.removability import has_protecting_flag, is_kept_by_sticky_bit
from streamconv.system.spellings import listed_alike


def check_own_paths(paths: RunPaths, files: Files) -> None:
    """Check that every path next to the target with a name of ours is ours.

    Raises:
        OSError: One is not.
        OutputExists: The target, or a folder of ours, is listed under another spelling.
    """
    with suppress(FileNotFoundError):  # the folder above the target may be missing
        names = files.names(paths.parent)
        for name in names:
            if paths.is_lock(name) or paths.is_moved(name):
                files.check_own(paths.parent / name, is_folder=False)
        _check_spelling(paths, names, files)
    if files.exists(paths.parent):
        for folder in (paths.partial, paths.replaced):
            files.check_own(folder, is_folder=True)
            if is_mount_point(folder):
                raise PlantedFile(folder, "it is a mount point")


def _check_spelling(paths: RunPaths, names: Sequence[str], files: Files) -> None:
    """Refuse a path that exists, and that its folder lists under another spelling.

    Where names are taken in any case, `OUT` is the folder `out`, but a run to it would not find the
    journals and locks of a run to `out`. Raises OutputExists.
    """
    for path in (paths.target, paths.partial, paths.replaced):
        # it may have appeared since the names were listed
        if path.name in names or (listed := listed_alike(path.name, names)) is None:
            continue
        if files.exists(path, follow=False) and path.name not in files.names(paths.parent):
            raise OutputExists(
                f"cannot use {quoted(str(path))}: its folder lists it as {quoted(listed)}, and "
                "both are one name there",
                "spell the target as the folder does, or name another one",
            )


def check_renamable(path: Path, paths: RunPaths, files: Files) -> None:
    """Refuse a file or folder, if it exists, that may be used, but not renamed.

    Raises OutputExists.
    """
    if not files.exists(path, follow=False):
        return
    status = files.stat(path, follow=False)
    if is_kept_by_sticky_bit(status, files.stat(paths.parent)):
        raise OutputExists(
            f"cannot use {quoted(str(path))}: it belongs to user {status.st_uid}, and "
            f"nobody else can rename it, as {paths.parent} has the sticky bit",
            "let that user run the command, or name another target",
        )
    if has_protecting_flag(path):
        raise OutputExists(
            f"cannot use {quoted(str(path))}: it is immutable or append-only, and cannot be "
            "renamed",
            f"run `chattr -i -a {quoted(str(path))}`, or name another target",
        )


def check_usable(paths: RunPaths, files: Files) -> None:
    """Refuse to go on in a new partial folder that the umask takes from its own user.

    No later run could look into it, so it is removed. Raises IOFailed.
    """
    if os.access(paths.partial, os.R_OK | os.W_OK | os.X_OK):
        return
    mode = stat.S_IMODE(files.stat(paths.partial).st_mode)
    files.remove_folder(paths.partial)
    raise IOFailed(
        f"cannot write to {quoted(str(paths.target))}: with this umask, a new folder has "
        f"permissions {mode:03o}, and even its owner cannot use it",
        "run `umask 022`, then the same command again",
    )
