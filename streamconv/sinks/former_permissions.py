"""The permissions of a result that takes the place of a folder: those of that folder.

    owner, group    those of the former folder, where the system lets this process set them
    permission bits those of it, with setgid; without its group, or with another access control
                    list, the group has only what everybody had

They are of the folder alone: what is in it is new, and has the permissions of new files. The folder
in which the result is built is closed in the same way from the start, so that whoever may not look
into the target can never look into its result.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from streamconv.errors import IOFailed, quoted
from streamconv.system.access_lists import limited_entries
from streamconv.system.file_ops import Files

NOT_ALLOWED = (errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
"""The errors of `chown` where the user, the user namespace or the file system does not allow it."""


def close_off(folder: Path, former: Path, files: Files) -> None:
    """Close a folder that is to be filled to all to whom the former one is closed.

    The members of a group keep the right to write that they need to fill it together. The folder of
    another user is left as it is: the part that made it has closed it.
    """
    if not files.is_folder(former):
        return
    wanted = files.stat(former)
    found = _give(folder, files.stat(folder).st_uid, wanted.st_gid, files)
    mode, now = _mode_for(former, folder, files), stat.S_IMODE(found.st_mode)
    writers = sum(0o2 << shift for shift in (0, 3) if mode >> shift & 0o7)
    closed = (now & (mode | writers | stat.S_ISGID)) | 0o700 | (mode & stat.S_ISGID)
    if closed != now:
        with suppress(PermissionError):
            files.set_mode(folder, closed)


@contextmanager
def taken_over(folder: Path, former: Path, files: Files) -> Iterator[None]:
    """Give a complete result the permissions of the folder that it replaces, if there is one.

    At no moment is it open to anybody to whom neither of the two was. If it is not renamed within
    the context, it gets its own permissions back, so that a later run can go on in it.

    Raises:
        IOFailed: The result belongs to another user, and is open to more than the former folder.
    """
    if not files.is_folder(former):
        yield
        return
    before = files.stat(folder)
    try:
        _take_over(folder, former, files)
        yield
    except BaseException:
        with suppress(OSError):
            _give(folder, before.st_uid, before.st_gid, files)
            files.set_mode(folder, stat.S_IMODE(before.st_mode))
        raise


def _take_over(folder: Path, former: Path, files: Files) -> None:
    wanted, found = files.stat(former), files.stat(folder)
    if (wanted.st_uid, wanted.st_gid) != (found.st_uid, found.st_gid):
        with suppress(PermissionError):
            files.set_mode(folder, stat.S_IMODE(found.st_mode) & 0o700)
        found = _give(folder, wanted.st_uid, wanted.st_gid, files)
    mode, now = _mode_for(former, folder, files), stat.S_IMODE(found.st_mode)
    if mode == now:
        return
    try:
        files.set_mode(folder, mode)
    except PermissionError:
        if now & ~mode & 0o077:
            raise IOFailed(
                f"cannot replace {quoted(str(former))}: its permissions are {mode:04o}, and "
                f"{quoted(str(folder))} has {now:04o}, which only user {found.st_uid} can change",
                "let that user run the command",
            ) from None
    with suppress(PermissionError):  # the new permissions may keep its owner from reading it
        files.sync_folder(folder)


def _give(folder: Path, user: int, group: int, files: Files) -> os.stat_result:
    """Set owner and group, or the group alone, if the system allows it; returns the status."""
    found = files.stat(folder)
    for owner in dict.fromkeys((user, found.st_uid)):
        if (owner, group) == (found.st_uid, found.st_gid):
            break
        try:
            files.set_owner(folder, owner, group)
        except OSError as error:
            if error.errno not in NOT_ALLOWED:
                raise
        else:
            return files.stat(folder)
    return found


def _mode_for(former: Path, folder: Path, files: Files) -> int:
    """Return the permission bits of a former folder, as far as they suit the group of another."""
    wanted = files.stat(former)
    mode = stat.S_IMODE(wanted.st_mode)
    is_of_group = files.stat(folder).st_gid == wanted.st_gid
    if is_of_group and limited_entries(former) == limited_entries(folder):
        return mode
    setgid = mode & stat.S_ISGID if is_of_group else 0
    return mode & ~(stat.S_ISGID | 0o070) | (mode & 0o070 & (mode & 0o007) << 3) | setgid
