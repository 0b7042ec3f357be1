"""Files next to a target that no run writes: refused by their kind, never waited for."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from folders import qwen_tensors, two_shards, write_checkpoint

import streamconv
from streamconv.errors import OutputExists, StreamconvError
from streamconv.sinks.own_files import own_lines, read_own_file
from streamconv.sinks.run_paths import RunPaths
from streamconv.system.linux_file_ops import system_files
from streamconv.system.planted import PlantedFile


def _socket(path: Path) -> None:
    here = os.open(path.parent, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as end:  # a path of a socket has 107 bytes at most
        end.bind(f"/proc/self/fd/{here}/{path.name}")
    os.close(here)


def _large(path: Path) -> None:
    path.touch()
    os.truncate(path, 10**12)


KINDS: dict[str, Callable[[Path], None]] = {
    "FIFO": os.mkfifo,
    "socket": _socket,
    "folder": Path.mkdir,
    "symbolic link": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.fixture
def src(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "src", two_shards(qwen_tensors(experts=2)))


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", [*KINDS])
def test_what_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    """By its kind, without waiting for it."""
    path = tmp_path / "it"
    KINDS[kind](path)
    files = system_files()
    files.guard(tmp_path, "it")
    with pytest.raises(PlantedFile, match=f"it is a {kind}"):
        read_own_file(path, files)


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    """Before it is read; one of the largest size is read."""
    _large(tmp_path / "it")
    with pytest.raises(OutputExists, match="it has 1000000000000 bytes"):
        read_own_file(tmp_path / "it", system_files())
    (tmp_path / "it").write_bytes(b"abc")
    assert read_own_file(tmp_path / "it", system_files(), 3) == b"abc"


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", [*KINDS, "large"])
@pytest.mark.parametrize("place", ["lock", "another lock", "journal", "moved", "request"])
def test_a_run_ends_at_them(tmp_path: Path, src: Path, kind: str, place: str) -> None:
    """In one line, with 6 or 8; what was put there is not touched."""
    paths = RunPaths(tmp_path / "out")
    path = {
        "lock": paths.lock(1),
        "another lock": paths.lock(7),
        "journal": paths.journal(2),
        "moved": paths.moved(paths.journal(2)),
        "request": paths.request,
    }[place]
    if "lock" not in place:
        paths.partial.mkdir()
    {**KINDS, "large": _large}[kind](path)
    try:
        if place == "request":
            streamconv.finish(paths.target)
        else:
            streamconv.merge(src, paths.target, resume=True)
    except StreamconvError as error:
        assert error.exit_code in (6, 8)
        assert error.message.isprintable()
        assert os.path.lexists(path)
    else:
        assert kind == "large"
        assert "lock" in place


def test_lines_of_a_file(tmp_path: Path) -> None:
    """Each with its end, which is a line feed alone; the same limit."""
    (tmp_path / "it").write_bytes(b"a\rb\n\nc")
    assert list(own_lines(tmp_path / "it", system_files())) == [b"a\rb\n", b"\n", b"c"]
    long = [bytes([48 + number]) * (number * 50_000) + b"\n" for number in range(5)]
    (tmp_path / "it").write_bytes(b"".join([*long, b"end"]))
    assert list(own_lines(tmp_path / "it", system_files())) == [*long, b"end"]
    os.truncate(tmp_path / "it", 10**9)
    with pytest.raises(OutputExists, match="1000000000 bytes"):
        next(own_lines(tmp_path / "it", system_files()))
