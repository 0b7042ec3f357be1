"""Mount points are found by names of any encoding."""

import os
from pathlib import Path

import pytest

from streamconv.system.mounts import (
    has_local_locks,
    is_mount_point,
    largest_file,
    listed_mount_points,
    mount_points,
)

MOUNTINFO = rb"""21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
22 21 0:5 / /mnt/\377\040usb rw - vfat /dev/sdb1 rw
23 21 0:6 / /mnt/with\040space\011tab\012line\134backslash\043hash rw - ext4 /dev/sdc1 rw
24 21 0:7 / /mnt/\134x41\134012 rw - ext4 /dev/sdd1 rw
""".replace(rb"\377", b"\xff")
LATER = "25 21 0:8 / /srv/mod\u00e8les\u2028\x85x rw - ext4 /dev/sde1 rw\n\n".encode() + b"26 21\n"


def test_mount_points_in_any_encoding() -> None:
    """As the kernel writes them: octal escapes for a few characters, other bytes as they are."""
    assert list(listed_mount_points(MOUNTINFO + LATER)) == [
        b"/",
        b"/mnt/\xff usb",
        b"/mnt/with space\ttab\nline\\backslash#hash",
        rb"/mnt/\x41\012",
        "/srv/mod\u00e8les\u2028\x85x".encode(),
    ]


@pytest.mark.parametrize(
    "name", ["plain", "a\rb", "mod\u00e8les", "a b\n\\c#", "\udcff\udcfe", "\u65e5"]
)
def test_what_is_mounted(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is found by its name, and others are not, whatever else is mounted."""
    folder = tmp_path / name
    folder.mkdir()
    escaped = os.fsencode(folder).replace(b"\\", rb"\134").replace(b"\n", rb"\012")
    escaped = escaped.replace(b" ", rb"\040").replace(b"#", rb"\043")
    listed = MOUNTINFO + b"30 21 0:9 / " + escaped + b" rw - ext4 /dev/sdf1 rw\n"
    monkeypatch.setattr(Path, "read_bytes", lambda _: listed)
    assert is_mount_point(folder)
    assert folder in mount_points()
    assert not is_mount_point(tmp_path)
    assert not is_mount_point(folder / "below")


def test_the_mount_points_of_this_machine(tmp_path: Path) -> None:
    assert is_mount_point(Path("/"))
    assert is_mount_point(Path("/proc"))
    assert not is_mount_point(Path("/proc/self"))
    assert not is_mount_point(tmp_path)
    assert not is_mount_point(tmp_path / "not there")
    assert {Path("/"), Path("/proc")} <= mount_points()


@pytest.mark.parametrize(
    ("options", "local"),
    [
        ("rw,localflock,lazystatfs", True),
        ("rw,vers=3,local_lock=flock,addr=10.0.0.1", True),
        ("rw,vers=3,nolock,local_lock=all", True),
        ("rw,flock,lazystatfs", False),
        ("rw,vers=4.2,local_lock=none", False),
        ("rw,vers=3,local_lock=posix", False),
        ("rw", False),
    ],
)
def test_locks_of_this_host_alone(
    options: str, local: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The options of the file system tell, whatever those of others are."""
    listed = tmp_path / "mountinfo"
    device = tmp_path.stat().st_dev
    ours = f"30 21 {os.major(device)}:{os.minor(device)} / /mnt rw - lustre a@tcp:/fs {options}\n"
    others = "31 21 0:999 / /other rw - lustre b@tcp:/fs rw,localflock\n"
    monkeypatch.setattr("streamconv.system.mounts.MOUNTINFO", listed)
    for content in (others + ours, ours + others):
        listed.write_text(content)
        assert has_local_locks(device) is local
    listed.write_text(others)
    assert not has_local_locks(device)
    listed.unlink()
    assert not has_local_locks(device)


@pytest.mark.parametrize(
    ("kind", "most"), [("vfat", 2**32 - 1), ("msdos", 2**32 - 1), ("ext4", None), ("exfat", None)]
)
def test_the_largest_file(
    kind: str, most: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the type of the file system, with or without more fields, also below what exists."""
    monkeypatch.setattr("streamconv.system.mounts.MOUNTINFO", tmp_path / "mountinfo")
    device = tmp_path.stat().st_dev
    for more in ("", "shared:1 master:2 "):
        line = f"30 21 {os.major(device)}:{os.minor(device)} / /mnt rw {more}- {kind} /dev/sdb rw\n"
        (tmp_path / "mountinfo").write_text(line)
        assert largest_file(tmp_path) == largest_file(tmp_path / "not" / "there") == most
    (tmp_path / "mountinfo").unlink()
    assert largest_file(tmp_path) is None


def test_a_system_that_lists_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("streamconv.system.mounts.MOUNTINFO", tmp_path / "mountinfo")
    assert mount_points() == frozenset()
    assert is_mount_point(Path("/"))
