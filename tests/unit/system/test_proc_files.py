"""Files in /proc hold names of any encoding: of mount points, processes and groups."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from streamconv.system import resources
from streamconv.system.resources import is_mount_point, mount_points, start_time

MOUNTINFO = rb"""21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
22 21 0:5 / /mnt/\377\040usb rw - vfat /dev/sdb1 rw
23 21 0:6 / /mnt/with\040space\011tab\012line\134backslash\043hash rw - ext4 /dev/sdc1 rw
24 21 0:7 / /mnt/\134x41\134012 rw - ext4 /dev/sdd1 rw
""".replace(rb"\377", b"\xff")
LATER = "25 21 0:8 / /srv/mod\u00e8les\u2028\x85x rw - ext4 /dev/sde1 rw\n\n".encode() + b"26 21\n"


def test_mount_points_in_any_encoding() -> None:
    """As the kernel writes them: octal escapes for a few characters, other bytes as they are."""
    assert list(mount_points(MOUNTINFO + LATER)) == [
        b"/",
        b"/mnt/\xff usb",
        b"/mnt/with space\ttab\nline\\backslash#hash",
        rb"/mnt/\x41\012",
        "/srv/mod\u00e8les\u2028\x85x".encode(),
    ]


@pytest.mark.parametrize("name", ["plain", "mod\u00e8les", "a b\n\\c#", "\udcff\udcfe", "\u65e5"])
def test_what_is_mounted(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is found by its name, and others are not, whatever else is mounted."""
    folder = tmp_path / name
    folder.mkdir()
    escaped = os.fsencode(folder).replace(b"\\", rb"\134").replace(b"\n", rb"\012")
    escaped = escaped.replace(b" ", rb"\040").replace(b"#", rb"\043")
    listed = MOUNTINFO + b"30 21 0:9 / " + escaped + b" rw - ext4 /dev/sdf1 rw\n"
    monkeypatch.setattr(Path, "read_bytes", lambda _: listed)
    assert is_mount_point(folder)
    assert not is_mount_point(tmp_path)
    assert not is_mount_point(folder / "below")


def test_a_process_whose_name_is_no_text() -> None:
    """Its start time and this process's memory are read."""
    script = (
        "import time; open('/proc/self/comm', 'wb').write(b'\\xff) \\xfe'); print(1, flush=True)"
    )
    script += "; from streamconv.system.resources import resident_bytes"
    script += "; print(resident_bytes(), flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        own = start_time(os.getpid())
        found = start_time(process.pid)
        assert own is not None
        assert found is not None
        assert int(found) >= int(own)
        assert int(process.stdout.readline()) > 2**20
    finally:
        process.kill()
        process.communicate()


def test_the_files_of_this_process() -> None:
    assert resources.peak_bytes() >= resources.resident_bytes() * 0.5 > 2**20
    assert is_mount_point(Path("/"))
    assert is_mount_point(Path("/proc"))
    assert not is_mount_point(Path("/proc/self"))
