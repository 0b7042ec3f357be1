"""Both ends of an archive are read at once; its middle only if it is needed."""

import pytest

from streamconv.errors import BadCheckpoint
from streamconv.formats.zip_window import WINDOW_BYTES, Window


class Archive:
    """Bytes that differ, and the reads of them."""

    def __init__(self, nbytes: int) -> None:
        self.content = bytes(n * 7 % 251 for n in range(nbytes))
        self.reads: list[tuple[int, int]] = []
        self.window = Window(self.read, nbytes, "a.distcp")

    def read(self, offset: int, count: int) -> bytes:
        self.reads.append((offset, count))
        return self.content[offset : offset + count]


@pytest.mark.parametrize("nbytes", [1, WINDOW_BYTES, WINDOW_BYTES + 1, 3 * WINDOW_BYTES])
def test_every_byte_is_the_archives(nbytes: int) -> None:
    archive = Archive(nbytes)
    for offset in {0, nbytes // 2, nbytes - 1, nbytes, max(nbytes - WINDOW_BYTES - 1, 0)}:
        left = max(nbytes - offset, 0)
        for count in {0, min(1, left), min(WINDOW_BYTES, left), left}:
            made = archive.window.bytes_at(offset, count)
            assert made == archive.content[offset : offset + count]


def test_a_small_archive_is_one_read_and_a_large_one_two() -> None:
    small, large = Archive(WINDOW_BYTES), Archive(5 * WINDOW_BYTES)
    assert small.reads == [(0, WINDOW_BYTES)]
    assert sorted(large.reads) == [(0, WINDOW_BYTES), (4 * WINDOW_BYTES, WINDOW_BYTES)]
    large.window.bytes_at(10, 100)
    large.window.bytes_at(4 * WINDOW_BYTES, WINDOW_BYTES)
    assert len(large.reads) == 2
    large.window.bytes_at(WINDOW_BYTES, 1)
    assert large.reads[2] == (WINDOW_BYTES, 1)


@pytest.mark.parametrize(("offset", "count"), [(0, 11), (10, 1), (-1, 1), (5, -1)])
def test_bytes_outside_are_refused(offset: int, count: int) -> None:
    with pytest.raises(BadCheckpoint, match=r"cannot read a.distcp: .* are outside of it"):
        Archive(10).window.bytes_at(offset, count)


@pytest.mark.parametrize("left", [0, 5, WINDOW_BYTES, 2 * WINDOW_BYTES])
def test_an_archive_that_is_cut_meanwhile_is_refused(left: int) -> None:
    """Before it is opened, or between two reads."""
    cut = bytes(left)
    fact = "it ended at byte .* of 5120: it was cut meanwhile"
    with pytest.raises(BadCheckpoint, match=fact):
        Window(lambda offset, count: cut[offset : offset + count], 5 * WINDOW_BYTES, "a")
    archive = Archive(5 * WINDOW_BYTES)
    archive.content = cut
    with pytest.raises(BadCheckpoint, match=fact):
        archive.window.bytes_at(2 * WINDOW_BYTES, 7)
