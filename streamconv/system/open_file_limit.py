"""How many files a process may have open at a time (RLIMIT_NOFILE)."""

from contextlib import suppress

MOST_HELD_OPEN = 1024
"""How many files one source holds open, if the limit allows it. Opening a file again takes a
thousandth of the time in which a disk reads it."""
FEWEST_HELD_OPEN = 4
SHARE_OF_LIMIT = 4
"""A source holds at most a fourth of the limit: a run reads up to three checkpoints at a time."""
UNKNOWN_LIMIT = 256
"""Assumed if the system does not tell. The lowest default of systems in use."""


def raise_open_file_limit() -> None:
    """Raise the soft limit of open files to the hard one, if the system lets this process do so."""
    try:
        import resource
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def files_held_open() -> int:
    """Return how many files one source may hold open between its reads."""
    return min(max(_open_file_limit() // SHARE_OF_LIMIT, FEWEST_HELD_OPEN), MOST_HELD_OPEN)


def _open_file_limit() -> int:
    """Return the soft limit of open files."""
    try:
        import resource
    except ImportError:
        return UNKNOWN_LIMIT
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST_HELD_OPEN * SHARE_OF_LIMIT if soft == resource.RLIM_INFINITY else soft
