"""The access control list of a folder, which gives users and groups more than permission bits say.

With a list, the group's permission bits are a limit on its entries, and not what the group may do.
"""

import os
import struct
from contextlib import suppress
from pathlib import Path

ATTRIBUTE = "system.posix_acl_access"
LIMITED_TAGS = (0x02, 0x04, 0x08)
"""Named users, the group, named groups. Source: linux/posix_acl_xattr.h, as the fields are."""


def limited_entries(path: Path) -> frozenset[tuple[int, int, int]]:
    """Return tag, permissions and id of each entry that the group's permission bits limit.

    Returns:
        Nothing if there is no list, or the system has none.
    """
    with suppress(OSError, AttributeError, struct.error):
        raw = os.getxattr(path, ATTRIBUTE, follow_symlinks=False)
        entries: list[tuple[int, int, int]] = list(struct.iter_unpack("<HHI", raw[4:]))
        return frozenset(entry for entry in entries if entry[0] in LIMITED_TAGS)
    return frozenset()
