"""Somebody plants something under each name that a run uses next to its target.

The victim is a file or folder elsewhere that a link leads to: its bytes and mode are the same
afterwards. The run ends with exit code 6, within seconds, and names what is planted.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from folders import qwen_tensors, tree, two_shards, write_checkpoint

import streamconv
from streamconv.errors import OutputExists

PARTIAL, REPLACED = "dst.streamconv-partial", "dst.streamconv-replaced"
OURS = {
    "lock": "dst.streamconv-lock-1",
    "lock of another part": "dst.streamconv-lock-7",
    "journal next to the target": "dst.streamconv-journal-1.jsonl",
    "request next to the target": "dst.streamconv-journal-command.json",
    "partial folder": PARTIAL,
    "replaced folder": REPLACED,
    "journal": f"{PARTIAL}/streamconv-journal-1.jsonl",
    "journal of another part": f"{PARTIAL}/streamconv-journal-9.jsonl",
    "draft of a journal": f"{PARTIAL}/streamconv-journal-1.new",
    "request": f"{PARTIAL}/streamconv-journal-command.json",
    "shard": f"{PARTIAL}/model-00001-of-00004.safetensors",
    "index": f"{PARTIAL}/model.safetensors.index.json",
    "manifest": f"{PARTIAL}/streamconv.json",
    "copied file": f"{PARTIAL}/notes/readme.txt",
    "copied folder": f"{PARTIAL}/notes",
    "unknown file": f"{PARTIAL}/x",
}
FOLDERS = ("partial folder", "replaced folder", "copied folder")
KINDS: dict[str, Callable[[Path, Path], object]] = {
    "link to a file": lambda at, victim: at.symlink_to(victim / "file"),
    "link to a folder": lambda at, victim: at.symlink_to(victim),
    "dangling link": lambda at, victim: at.symlink_to(victim / "nothing"),
    "hard link": lambda at, victim: at.hardlink_to(victim / "file"),
    "FIFO": lambda at, victim: os.mkfifo(at),
    "socket": lambda at, victim: bind(at),
    "folder": lambda at, victim: at.mkdir(),
    "file": lambda at, victim: at.write_bytes(b"{}"),
    "other owner": lambda at, victim: other_owner(at),
}
WAYS: dict[str, dict[str, Any]] = {
    "--resume": {"resume": True},
    "--overwrite": {"overwrite": True},
    "--part": {"part": "2/2"},
    "finish": {},
}
SECONDS = 20


def bind(at: Path) -> None:
    """Make a socket; its path may be too long to bind, so it is bound from its folder."""
    code = "import os, socket, sys; os.chdir(sys.argv[1]); socket.socket(1).bind(sys.argv[2])"
    subprocess.run([sys.executable, "-c", code, str(at.parent), at.name], check=True)


def other_owner(at: Path) -> None:
    """Make a file of one user in a folder of another, neither of whom is the one who runs."""
    at.mkdir() if at.name in (PARTIAL, REPLACED, "notes") else at.write_bytes(b"")
    os.chown(at, 4242, -1)
    os.chown(at.parent, 4343, -1)


@pytest.fixture(scope="module")
def src(memory: Path) -> Path:
    folder = write_checkpoint(
        memory / "src", two_shards(qwen_tensors(experts=2)), {"model_type": "qwen3_moe"}
    )
    (folder / "notes").mkdir()
    (folder / "notes" / "readme.txt").write_text("text")
    return folder


@pytest.fixture
def victim(memory: Path) -> Iterator[Path]:
    """A folder that nobody may touch; held at the end."""
    folder = memory / "victim"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o710)
    (folder / "file").write_bytes(b"precious")
    (folder / "file").chmod(0o640)
    before = seen(folder)
    yield folder
    assert seen(folder) == before


def seen(folder: Path) -> list[Any]:
    return [
        (path.name, path.stat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in [folder, *sorted(folder.rglob("*"))]
    ]


def convert(src: Path, dst: Path, **options: Any) -> None:
    streamconv.convert(src, dst, to="fused-transposed", jobs=1, max_shard_size=300, **options)


@pytest.fixture(scope="module")
def ready(src: Path, memory: Path) -> Path:
    """A folder in which one of two parts is complete."""
    folder = memory / "ready"
    folder.mkdir()
    convert(src, folder / "dst", part="1/2")
    return folder


def plant(place: Path, ours: str, kind: str, victim: Path) -> Path:
    """Put something at one of our names, instead of what is there."""
    at = place / OURS[ours]
    if at.exists():
        shutil.rmtree(at) if at.is_dir() else at.unlink()
    at.parent.mkdir(exist_ok=True)
    KINDS[kind](at, victim)
    return at


HARMLESS = [("copied folder", "file")]
"""What a run removes as it removes every other file of a run that was killed."""


def stop(*_: object) -> None:
    raise AssertionError("it hangs")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ours", OURS)
def test_what_is_planted_is_refused_by_its_name(
    src: Path, ready: Path, memory: Path, victim: Path, ours: str, kind: str, way: str
) -> None:
    """With every option that uses what is there; without one, an unfinished run is refused."""
    if kind == ("folder" if ours in FOLDERS else "file") or (ours, kind) == (
        "copied folder",
        "file",
    ):
        pytest.skip("that is what a run leaves there")
    if kind == "other owner" and os.geteuid() != 0:
        pytest.skip("only root can give files away")
    if kind == "folder" and ours not in NEXT_TO_TARGET:
        pytest.skip("refused when it is in the way: test_a_folder_in_the_way")
    place = memory / "place"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(ready, place)
    at = plant(place, ours, kind, victim)
    former = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        with pytest.raises(OutputExists) as caught:
            if way == "finish":
                streamconv.finish(place / "dst")
            else:
                convert(src, place / "dst", **WAYS[way])
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)
    assert str(at) in caught.value.message
    assert os.path.lexists(at)
    assert not (place / "dst").exists()


NEXT_TO_TARGET = [ours for ours, name in OURS.items() if "/" not in name]


@pytest.mark.parametrize("ours", ["index", "manifest", "shard", "copied file"])
def test_a_folder_in_the_way(src: Path, ready: Path, tmp_path: Path, ours: str) -> None:
    """Inside the partial folder one is refused at the latest when the file is made."""
    place = tmp_path / "place"
    shutil.copytree(ready, place)
    at = plant(place, ours, "folder", tmp_path)
    with pytest.raises(OutputExists) as caught:
        convert(src, place / "dst", resume=True)
    assert str(at) in caught.value.message


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("way", ["plain", "sticky", "preset"])
@pytest.mark.parametrize("first", [4242, 4343])
def test_parts_of_several_users_of_one_group(
    src: Path, tmp_path: Path, first: int, way: str
) -> None:
    """In a folder of root's or of one of them, each makes a part, and either finishes.

    Also in a folder with the sticky bit, and with a preset that sets permissions.
    """
    options: dict[str, Any] = {"format": "dcp", "preset": "mindspeed"} if way == "preset" else {}
    # here first: another user may have no right to import what this process has not imported yet
    for part in ("1/2", "2/2"):
        convert(src, tmp_path / "right", part=part, **options)
    streamconv.finish(tmp_path / "right")
    place = Path("/dev/shm") / f"streamconv-group-{os.getpid()}-{first}-{way}"
    place.mkdir()
    try:
        source = place / "src"
        shutil.copytree(src, source)
        for path in (place, *place.rglob("*")):
            path.chmod(0o777 if path == place else 0o755 if path.is_dir() else 0o644)
        os.chown(place, 4242, 4000)
        place.chmod(0o3775 if way == "sticky" else 0o2775)
        second = 4343 if first == 4242 else 4242
        for user, words in (
            (first, ["--part=1/2"]),
            (second, ["--part=2/2"]),
            (first, None),
        ):
            code = as_user(user, source, place / "dst", words, options)
            assert code == 0, (user, words)
        assert tree(place / "dst") == tree(tmp_path / "right")
        assert sorted(path.name for path in place.iterdir()) == ["dst", "src"]
        files = [path for path in (place / "dst").rglob("*") if path.is_file()]
        assert {path.stat().st_uid for path in files} == {first, second}
        assert way != "preset" or {path.stat().st_mode & 0o777 for path in files} == {0o640}
    finally:
        shutil.rmtree(place)


def as_user(
    user: int, src: Path, dst: Path, words: list[str] | None, options: dict[str, Any]
) -> int:
    """Run one step in a child that has become this user, in group 4000."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(4000)
            os.setuid(user)
            os.umask(0o002)
            if words is None:
                streamconv.finish(dst)
            else:
                convert(src, dst, part=words[0].removeprefix("--part="), **options)
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
