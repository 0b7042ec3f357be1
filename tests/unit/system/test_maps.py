"""Maps of files, and parts of files that are joined to one map."""

import gc
import mmap
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from file_calls import ON_LINUX, PAGE, content

from streamconv.system import maps
from streamconv.system.linux_file_ops import system_files
from streamconv.system.maps import FilePart, joined_map, neighbors_joined, private_map

FILE_BYTES = 64 * PAGE + 100


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files."""
    whole = content(2 * FILE_BYTES)
    (tmp_path / "a").write_bytes(whole[:FILE_BYTES])
    (tmp_path / "b").write_bytes(whole[FILE_BYTES:])
    return tmp_path


def joined(folder: Path, parts: list[FilePart]) -> memoryview | None:
    @contextmanager
    def descriptor(name: str) -> Iterator[int]:
        with (folder / name).open("rb") as file:
            yield file.fileno()

    return joined_map(list(neighbors_joined(parts)), descriptor, system_files())


def expected(folder: Path, parts: list[FilePart]) -> bytes:
    """The bytes of the parts, as they are read."""
    return b"".join(
        (folder / part.file).read_bytes()[part.offset :][: part.nbytes] for part in parts
    )


def fitting_parts(chosen: random.Random, lead: int) -> list[FilePart]:
    """Parts of at least a page each, whose places in a map differ from offsets by whole pages."""
    parts, place = [], 0
    for _ in range(chosen.randint(2, 7)):
        nbytes = chosen.choice((PAGE, PAGE + 8, 3 * PAGE, chosen.randint(PAGE, 4 * PAGE)))
        offset = chosen.randint(0, 50) * PAGE + (lead + place) % PAGE
        parts.append(FilePart(chosen.choice("ab"), offset, nbytes))
        place += nbytes
    return parts


def test_a_private_map(tmp_path: Path) -> None:
    """Writing to it changes neither the file nor another map."""
    path = tmp_path / "file"
    path.write_bytes(b"abcd")
    with path.open("rb") as file:
        one, other = private_map(file.fileno()), private_map(file.fileno())
    one[1] = ord("x")
    assert (bytes(one), bytes(other), path.read_bytes()) == (b"axcd", b"abcd", b"abcd")


@ON_LINUX
@pytest.mark.parametrize("lead", [0, 8, 2048, PAGE - 8])
def test_joined_parts(folder: Path, monkeypatch: pytest.MonkeyPatch, lead: int) -> None:
    """Any parts that fit have the bytes that reading them has, at the address of their offset."""
    monkeypatch.setattr(maps, "LEAST_BYTES", PAGE)
    chosen = random.Random(lead)
    for _ in range(50):
        parts = fitting_parts(chosen, lead)
        view = joined(folder, parts)
        assert view is not None
        assert view == expected(folder, parts)


@ON_LINUX
def test_a_joined_map_is_a_map(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written to, it stays private; a page in which no parts meet is that of the file."""
    monkeypatch.setattr(maps, "LEAST_BYTES", PAGE)
    parts = [FilePart("a", 8, 2 * PAGE), FilePart("b", 4 * PAGE + 8, 2 * PAGE)]
    before = expected(folder, parts)
    one, other = joined(folder, parts), joined(folder, parts)
    assert one is not None
    assert other is not None
    one[0] = one[0] ^ 1
    assert other == before
    assert expected(folder, parts) == before
    with (folder / "b").open("r+b") as file:
        file.seek(5 * PAGE + 8)
        file.write(b"changed")
    assert bytes(other[3 * PAGE : 3 * PAGE + 7]) == b"changed"


@ON_LINUX
def test_parts_that_do_not_fit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are copied, wherever they are among the others, if they are less than half."""
    monkeypatch.setattr(maps, "LEAST_BYTES", PAGE)
    chosen = random.Random(5)
    made = 0
    for _ in range(200):
        parts = fitting_parts(chosen, chosen.choice((0, 8, PAGE - 8)))
        for number in chosen.sample(range(len(parts)), chosen.randint(1, 2)):
            part = parts[number]
            at = chosen.choice((part.offset + 8, part.offset + 1000))
            parts[number] = FilePart(part.file, at, part.nbytes)
        view = joined(folder, parts)
        made += view is not None
        assert view is None or view == expected(folder, parts)
    assert made > 50
    first = FilePart("a", 0, PAGE)
    for parts in (
        [first, FilePart("b", PAGE, PAGE - 1)],
        [FilePart("b", 5, PAGE - 1), first, first],
        # the end of the first one lies in the first page of the last one
        [FilePart("a", 0, PAGE + 90), FilePart("b", 5, 10), FilePart("b", 3 * PAGE + 100, PAGE)],
    ):
        assert joined(folder, parts) == expected(folder, parts)
    others = [FilePart("b", PAGE + 8, PAGE), FilePart("a", 2 * PAGE + 16, PAGE)]
    assert joined(folder, [first, *others]) is None


@ON_LINUX
def test_a_file_that_ends_early(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is left to reading, which says so."""
    monkeypatch.setattr(maps, "LEAST_BYTES", PAGE)
    parts = [FilePart("a", 63 * PAGE + 200, PAGE), FilePart("b", 200, PAGE)]
    assert joined(folder, parts) is None


@ON_LINUX
def test_maps_are_left_for_others(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Joined maps take half of what a process may have, and give them back."""
    monkeypatch.setattr(maps, "LEAST_BYTES", PAGE)
    gc.collect()
    allowed = 2 * (maps._budget._held + 3)
    monkeypatch.setattr(maps, "_allowed_maps", lambda: allowed)
    parts = [FilePart("a", 0, PAGE), FilePart("b", 0, PAGE)]
    held = joined(folder, parts)
    assert held is not None
    assert joined(folder, parts) is None
    del held
    gc.collect()
    assert joined(folder, parts) is not None


@ON_LINUX
def test_a_map_is_collected_while_another_one_is_made(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As garbage may be collected at any call, also while maps are counted."""
    monkeypatch.setattr(maps, "LEAST_BYTES", PAGE)
    parts = [FilePart("a", 0, PAGE), FilePart("b", 0, PAGE)]
    gc.collect()
    before = maps._budget._held
    cycle: list[object] = [joined(folder, parts)]
    cycle.append(cycle)
    del cycle
    monkeypatch.setattr(maps, "_allowed_maps", lambda: gc.collect() + 1000)
    made: list[memoryview | None] = []
    thread = threading.Thread(target=lambda: made.append(joined(folder, parts)), daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert made[0] == expected(folder, parts)
    assert maps._budget._held == before + 2


@ON_LINUX
def test_a_system_that_refuses(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No view, and nothing is held."""
    monkeypatch.setattr(maps, "LEAST_BYTES", PAGE)
    parts = [FilePart("a", 0, PAGE), FilePart("b", 0, PAGE)]
    gc.collect()
    before = maps._budget._held
    with monkeypatch.context() as patched:
        patched.setattr(maps, "_map_over", lambda *_: False)
        assert joined(folder, parts) is None
        patched.setattr(mmap, "mmap", _refuse)
        assert joined(folder, parts) is None
    gc.collect()
    assert maps._budget._held == before


def _refuse(*_: object, **__: object) -> None:
    raise OSError


def test_neighbors_are_one_part() -> None:
    """In one file, and in the order of the parts only."""
    parts = [FilePart("a", 0, 4), FilePart("a", 4, 2), FilePart("b", 6, 1), FilePart("b", 5, 1)]
    assert list(neighbors_joined(parts)) == [FilePart("a", 0, 6), *parts[2:]]
    assert list(neighbors_joined([])) == []
