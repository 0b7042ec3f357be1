"""A result that takes the place of a folder has the permissions of that folder.

What is in it has those of new files. Nobody to whom the former folder was closed can look into the
result at any moment of a run.
"""

import os
import shutil
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from faulty import CHANGING, DEATH, Twin, in_a_child, with_files
from folders import qwen_tensors, two_shards, write_checkpoint

import streamconv
from streamconv.errors import StreamconvError
from streamconv.system.linux_file_ops import LinuxFiles

OWNER, OTHER, GROUP, TEAM = 4242, 4343, 4000, 4001
MODES = [0o700, 0o750, 0o755, 0o775, 0o2770, 0o2755, 0o1777, 0o555]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture(scope="module")
def src(memory: Path) -> Path:
    config = {"model_type": "qwen3_moe", "num_experts": 2}
    return write_checkpoint(memory / "src", two_shards(qwen_tensors(experts=2)), config)


@pytest.fixture
def shared(src: Path) -> Iterator[Path]:
    """A folder in which two users may make others, with a source that both may read."""
    place = Path("/dev/shm") / f"streamconv-permissions-{os.getpid()}"
    place.mkdir()
    os.chown(place, OWNER, GROUP)
    shutil.copytree(src, place / "src")
    for path in (place, *place.rglob("*")):
        path.chmod(0o775 if path.is_dir() else 0o644)
    yield place
    shutil.rmtree(place)


def permissions(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)


def convert(src: Path, dst: Path, **options: Any) -> None:
    streamconv.convert(src, dst, to="fused", max_shard_size=300, jobs=1, **options)


def in_place_of(dst: Path, mode: int) -> None:
    dst.mkdir()
    dst.chmod(mode)


def as_user(user: int, call: Callable[[], object], groups: Sequence[int] = ()) -> str:
    """Call it in a child that has become this user; returns the error, empty if there is none."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        text = "the child has ended"
        try:
            os.setgroups(groups)
            os.setgid(GROUP)
            os.setuid(user)
            os.umask(0o002)
            call()
            text = ""
        except StreamconvError as error:
            text = f"{error.message}; {error.hint}"
        finally:
            os.write(theirs, text.encode())
            os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as file:
        text = file.read().decode()
    os.waitpid(pid, 0)
    return text


class Watch(LinuxFiles):
    """Notes after each operation who may look into the folders of a run, apart from its user."""

    def __init__(self, dst: Path) -> None:
        super().__init__()
        self.seen: set[int] = set()
        self._paths = [
            dst,
            *(dst.with_name(f"{dst.name}.streamconv-{n}") for n in ("partial", "replaced")),
        ]

    def look(self) -> None:
        for path in self._paths:
            if path.exists() and any(path.iterdir()):
                self.seen.add(stat.S_IMODE(path.stat().st_mode) & 0o077)


def _watched(name: str) -> Any:
    true = getattr(LinuxFiles, name)

    def call(self: Watch, *args: Any, **options: Any) -> Any:
        done = true(self, *args, **options)
        self.look()
        return done

    return call


for _name in CHANGING:
    setattr(Watch, _name, _watched(_name))


WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dcp": {"format": "dcp"},
    "preset": {"preset": "mindspeed"},
    "verify": {"verify": True},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", MODES, ids=oct)
def test_an_empty_folder_keeps_its_permissions(
    src: Path, tmp_path: Path, mode: int, way: str
) -> None:
    """And so does a result that is replaced; what is in it has the permissions of new files."""
    dst = tmp_path / "dst"
    in_place_of(dst, mode)
    before = permissions(dst)
    convert(src, dst, **WAYS[way])
    assert permissions(dst) == before
    convert(src, dst, overwrite=True, **WAYS[way])
    assert permissions(dst) == before
    convert(src, tmp_path / "new", **WAYS[way])
    for path in (tmp_path / "new").rglob("*"):
        made = dst / path.relative_to(tmp_path / "new")
        assert made.stat().st_mode & 0o777 == path.stat().st_mode & 0o777


@pytest.mark.parametrize("way", WAYS)
def test_a_private_target_is_never_open(src: Path, tmp_path: Path, way: str) -> None:
    """Not while the result is built, nor under any other name."""
    dst = tmp_path / "dst"
    in_place_of(dst, 0o700)
    for options in ({}, {"overwrite": True}):
        files = Watch(dst)
        with_files(files, lambda: convert(src, dst, **WAYS[way], **options))  # noqa: B023
        assert files.seen == {0}


@pytest.mark.parametrize("way", ["resumed", "finished"])
def test_a_run_that_goes_on(src: Path, tmp_path: Path, way: str) -> None:
    """It takes the permissions that the target has then; it may have been closed meanwhile."""
    dst = tmp_path / "dst"
    dst.mkdir()
    if way == "finished":
        for part in ("1/2", "2/2"):
            convert(src, dst, part=part)
    else:
        in_a_child(Twin(300, DEATH), lambda: convert(src, dst))
    assert (tmp_path / "dst.streamconv-partial").is_dir()
    dst.chmod(0o2710)
    files = Watch(dst)
    if way == "finished":
        with_files(files, lambda: streamconv.finish(dst))
    else:
        with_files(files, lambda: convert(src, dst, resume=True))
    assert permissions(dst)[2] == 0o2710
    assert files.seen <= {0o010, 0o055}, "closed when the run goes on"


# --- of other users and groups -----------------------------------------------------------------


@as_root
@pytest.mark.parametrize("mode", [0o2750, 0o700, 0o770], ids=oct)
def test_root_gives_a_result_to_the_owner_of_the_target(shared: Path, mode: int) -> None:
    dst = shared / "dst"
    dst.mkdir()
    os.chown(dst, OWNER, TEAM)
    dst.chmod(mode)
    files = Watch(dst)
    with_files(files, lambda: convert(shared / "src", dst))
    assert permissions(dst) == (OWNER, TEAM, mode)
    assert not any(seen & ~mode for seen in files.seen)


@as_root
@pytest.mark.parametrize("mode", [0o770, 0o2770, 0o710], ids=oct)
def test_a_user_keeps_the_group_of_a_target(shared: Path, mode: int) -> None:
    """If he is in it, as the system lets him."""
    dst = shared / "dst"
    dst.mkdir()
    os.chown(dst, OWNER, TEAM)
    dst.chmod(mode)
    assert as_user(OWNER, lambda: convert(shared / "src", dst), [TEAM]) == ""
    assert permissions(dst) == (OWNER, TEAM, mode)


@as_root
@pytest.mark.parametrize(
    ("mode", "kept"),
    [(0o2775, 0o755), (0o777, 0o777), (0o704, 0o704), (0o754, 0o744)],
    ids=oct,
)
def test_a_group_that_cannot_be_kept(shared: Path, mode: int, kept: int) -> None:
    """Another group may do no more than everybody could."""
    dst = shared / "dst"
    dst.mkdir()
    os.chown(dst, OTHER, TEAM)
    dst.chmod(mode)
    assert as_user(OWNER, lambda: convert(shared / "src", dst)) == ""
    assert permissions(dst) == (OWNER, GROUP, kept)


@as_root
def test_a_result_that_another_user_has_to_close(shared: Path) -> None:
    """It is not made open to more than the target was: only its owner can finish it."""
    dst = shared / "dst"
    for part in ("1/2", "2/2"):
        assert as_user(OWNER, lambda: convert(shared / "src", dst, part=part)) == ""  # noqa: B023
    dst.mkdir()
    os.chown(dst, OWNER, GROUP)
    dst.chmod(0o755)
    text = as_user(OTHER, lambda: streamconv.finish(dst))
    assert f"its permissions are 0755, and {dst}.streamconv-partial has 0775" in text
    assert "let that user run the command" in text
    assert list(dst.iterdir()) == []
    assert as_user(OWNER, lambda: streamconv.finish(dst)) == ""
    assert permissions(dst) == (OWNER, GROUP, 0o755)


@as_root
def test_parts_of_a_group_into_a_folder_that_exists(shared: Path) -> None:
    """All of them may write to the folder in which the result is built."""
    dst = shared / "dst"
    dst.mkdir()
    os.chown(dst, OWNER, GROUP)
    dst.chmod(0o755)
    for user, part in ((OWNER, "1/2"), (OTHER, "2/2")):
        assert as_user(user, lambda: convert(shared / "src", dst, part=part)) == ""  # noqa: B023
    assert as_user(OWNER, lambda: streamconv.finish(dst)) == ""
    assert permissions(dst) == (OWNER, GROUP, 0o755)


# --- access control lists ----------------------------------------------------------------------


def access_list(path: Path, group: int, user: int) -> None:
    """Let the group do this, and a user of a number of his own that."""
    everybody = 2**32 - 1
    rows = [(1, 7, everybody), (2, user, OTHER), (4, group, everybody)]
    rows += [(16, group | user, everybody), (32, 0, everybody)]
    raw = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *row) for row in rows)
    try:
        for name in ("access", "default"):
            os.setxattr(path, f"system.posix_acl_{name}", raw)
    except OSError:
        pytest.skip("the file system has no access control lists")


def test_a_list_that_the_result_does_not_have(src: Path, tmp_path: Path) -> None:
    """What the list lets a user do, a group may not do for it; nor the other way round."""
    for dst, listed in ((tmp_path / "a" / "dst", "dst"), (tmp_path / "b" / "dst", "parent")):
        dst.parent.mkdir()
        dst.mkdir(0o770)
        dst.chmod(0o770)
        access_list(dst if listed == "dst" else dst.parent, group=0, user=7)
        convert(src, dst)
        assert permissions(dst)[2] == 0o700


def test_a_list_that_both_have(src: Path, tmp_path: Path) -> None:
    """From the folder above; the target is closed further."""
    access_list(tmp_path, group=5, user=7)
    dst = tmp_path / "dst"
    for mode in (0o770, 0o750):
        dst.mkdir()
        dst.chmod(mode)
        convert(src, dst)
        assert permissions(dst)[2] == mode
        shutil.rmtree(dst)
