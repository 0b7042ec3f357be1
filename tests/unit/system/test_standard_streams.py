"""Streams that are closed, of another encoding, or read by nobody, in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

OPEN = "import os, sys; from streamconv.system import standard_streams as streams\n"


def test_closed_streams_get_the_null_device(tmp_path: Path) -> None:
    """So that no file gets their numbers, and nothing that is printed lands in a file."""
    code = OPEN + (
        "streams.open_standard_streams()\n"
        "fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)\n"
        "print('x'); sys.stderr.write('y'); sys.stdout.flush()\n"
        "os.write(fd, str(fd).encode())\n"
    )
    words = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", code]
    done = subprocess.run([*words, str(tmp_path / "f")], check=False, timeout=60)
    assert done.returncode == 0
    assert int((tmp_path / "f").read_text()) > 2


def test_characters_that_the_encoding_lacks() -> None:
    code = OPEN + "streams.open_standard_streams(); print('\\xe9')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == b"\\xe9\n"


def test_output_that_nobody_reads_is_dropped() -> None:
    """The process ends with its own code, and nothing on stderr."""
    reading, writing = os.pipe()
    os.close(reading)
    code = OPEN + "sys.stdout.write('x'); streams.discard_output(); sys.exit(7)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONUNBUFFERED": ""},
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
        timeout=60,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (7, b"")
