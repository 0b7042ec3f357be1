"""Which host a process runs on, so that its number can be looked up there and nowhere else."""

import platform
from contextlib import suppress
from pathlib import Path

FIRST_PID_NAMESPACE = "pid:[4026531836]"
"""The namespace of a host's own processes. Source: PROC_PID_INIT_INO of linux/proc_ns.h."""
NAMES_OF_ANY_HOST = ("", "(none)", "localhost", "localhost.localdomain")
"""Names that hosts have before they are given one."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
PID_NAMESPACE = Path("/proc/self/ns/pid")


def host_of_processes() -> str:
    """Return a name for this host, other than that of any host with other processes.

    Containers number their processes on their own, each from 1, and may share the name of their
    host. It is the plain name of the host where nothing has to tell it from others.
    """
    found = [platform.node()]
    with suppress(OSError):
        if found[0] in NAMES_OF_ANY_HOST:
            found.append(f"boot {BOOT_ID.read_text('ascii').strip()}")
    with suppress(OSError):
        namespace = str(PID_NAMESPACE.readlink())
        if namespace != FIRST_PID_NAMESPACE:
            found.append(namespace)
    return " ".join(found)
