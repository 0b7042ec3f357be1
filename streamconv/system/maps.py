"""Maps of files: bytes of the page cache as memory, without a copy."""

import ctypes
import functools
import mmap
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from streamconv.system.file_reads import FileReads

PAGE = mmap.PAGESIZE
MAP_NORESERVE = 0x4000
MAP_FIXED = 0x10
"""Flags on Linux that Python's `mmap` does not name."""
LEAST_BYTES = 2**18
"""Parts with fewer bytes are cheaper to copy than to map."""
USUAL_MAPS = 65530
"""How many maps Linux allows a process by default."""


@dataclass(frozen=True, slots=True)
class FilePart:
    """Adjacent bytes of a file."""

    file: str
    offset: int
    nbytes: int


def private_map(fd: int) -> memoryview:
    """Return a map of an open file. Writing to it changes neither the file nor other maps.

    The system reserves no memory for it, as hardly anything will be written. Raises OSError.
    """
    flags = mmap.MAP_PRIVATE | (MAP_NORESERVE if sys.platform == "linux" else 0)
    return memoryview(mmap.mmap(fd, 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE))


def joined_map(
    parts: Sequence[FilePart],
    descriptor: Callable[[str], AbstractContextManager[int]],
    files: FileReads,
) -> memoryview | None:
    """Return parts of files, one after the other, as one private map.

    Each part is mapped by itself, to where the one before it ends. Maps consist of whole pages. So
    a part fits only if the difference between its offset in the file and its place in the map is
    that of the other parts, or differs from it by whole pages. Parts that do not fit are copied,
    and so is a page in which two parts meet.

    An example with two parts of 8200 bytes, at 100 and 16492. In the map they begin at 0 and 8200,
    and 16492 - 8200 - 100 is two pages. Each page of addresses gets a page of the file:

        page of the map          0       1       2       3       4
        offset in the file       0    4096   16384   20480   24576

    The second part begins 108 bytes after the start of page 2. There the file has other bytes, and
    the last 108 of the first part are written over them.

    Args:
        parts: Which bytes, in the order of the map; none continues the one before it.
        descriptor: Lends the descriptor of a file.
        files: Reads the bytes that are copied.

    Returns:
        The bytes, which may be written to; None if less than half of them fit, or there are too
        many parts.

    Raises:
        OSError: A file cannot be opened or mapped.
    """
    places = _places(parts)
    lead = _usual_lead(parts, places)
    size = lead + sum(part.nbytes for part in parts)
    placed = list(zip(parts, places, strict=True))
    fitting = [_fits(part, place, lead) for part, place in placed]
    mapped = [each for each, fits in zip(placed, fitting, strict=True) if fits]
    if not _mmap() or 2 * sum(part.nbytes for part, _ in mapped) < size - lead:
        return None
    reserved = _reserve(size, len(parts))
    if reserved is None:
        return None
    view = memoryview(reserved)
    address = _address(reserved)
    for part, place in mapped:
        shared = (lead + place) % PAGE
        with descriptor(part.file) as fd:
            begin = lead + place - shared
            if not _map_over(address + begin, part.nbytes + shared, fd, part.offset - shared):
                return None
    mapped_from = size
    for (part, place), fits in zip(reversed(placed), reversed(fitting), strict=True):
        # copy a part that is not mapped, or the end of one that lies in the first page of the next
        end = lead + place + part.nbytes
        nbytes = max(end - mapped_from, 0) if fits else part.nbytes
        with descriptor(part.file) as fd:
            offset = part.offset + part.nbytes - nbytes
            if nbytes and files.read_into(fd, view[end - nbytes : end], offset) < nbytes:
                return None
        if fits:
            mapped_from = (lead + place) // PAGE * PAGE
    return view[lead:size]


def _usual_lead(parts: Sequence[FilePart], places: Sequence[int]) -> int:
    """Return where in a page the map has to begin so that most bytes can be mapped."""
    fitting: dict[int, int] = {}
    for part, place in zip(parts, places, strict=True):
        lead = (part.offset - place) % PAGE
        fitting[lead] = fitting.get(lead, 0) + part.nbytes
    return max(fitting, key=lambda lead: fitting[lead])


def _fits(part: FilePart, place: int, lead: int) -> bool:
    """Return True if a part can be mapped to its place, and is worth it."""
    return part.nbytes >= LEAST_BYTES and (part.offset - place - lead) % PAGE == 0


def neighbors_joined(parts: Sequence[FilePart]) -> Iterator[FilePart]:
    """Yield parts in order, each joined with those that continue it in its file."""
    last: FilePart | None = None
    for part in parts:
        if last is not None and (part.file, part.offset) == (last.file, last.offset + last.nbytes):
            last = replace(last, nbytes=last.nbytes + part.nbytes)
            continue
        if last is not None:
            yield last
        last = part
    if last is not None:
        yield last


def _places(parts: Sequence[FilePart]) -> list[int]:
    """Return where each part begins if they are one after the other."""
    places, place = [], 0
    for part in parts:
        places.append(place)
        place += part.nbytes
    return places


# --- maps of the system --------------------------------------------------------------------------


class _Budget:
    """How many maps joined ones may consist of, as the rest of this process needs some, too."""

    def __init__(self) -> None:
        self.unlock()
        self._held = 0

    def unlock(self) -> None:
        """Take a new lock, also in a forked process: another thread may have held the old one."""
        # a map may be collected, and call `give_back`, while its thread is in `take`
        self._lock = threading.RLock()

    def take(self, count: int) -> bool:
        """Take `count` maps, unless more than half of those that the system allows are taken then.

        Returns:
            True if they were taken.
        """
        with self._lock:
            if self._held + count > _allowed_maps() // 2:
                return False
            self._held += count
            return True

    def give_back(self, count: int) -> None:
        with self._lock:
            self._held -= count


_budget = _Budget()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_budget.unlock)


def _reserve(nbytes: int, count: int) -> mmap.mmap | None:
    """Reserve addresses for a joined map of `count` maps; None if there are none left."""
    if not _budget.take(count):
        return None
    try:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
        reserved = mmap.mmap(-1, nbytes, flags=flags)
    except OSError:
        _budget.give_back(count)
        return None
    weakref.finalize(reserved, _budget.give_back, count).atexit = False
    return reserved


def _address(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def _map_over(address: int, nbytes: int, fd: int, offset: int) -> bool:
    """Replace reserved addresses by a private map of bytes of a file; return True on success."""
    call = _mmap()
    prot, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED
    return call is not None and call(address, nbytes, prot, flags, fd, offset) == address


@functools.cache
def _mmap() -> Callable[[int, int, int, int, int, int], int | None] | None:
    """Return `mmap` of the C library, since Python's cannot map to a given address.

    None if this is not 64-bit Linux.
    """
    if sys.platform != "linux" or sys.maxsize < 2**32:
        return None
    call = ctypes.CDLL(None, use_errno=True).mmap
    call.restype = ctypes.c_void_p
    call.argtypes = (
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int64,
    )
    return call


@functools.cache
def _allowed_maps() -> int:
    """Return how many maps the system allows a process."""
    try:
        return int(Path("/proc/sys/vm/max_map_count").read_bytes())
    except (OSError, ValueError):
        return USUAL_MAPS
