"""What runs in a fork of the tests ends as an interpreter of its own does, and always."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from forked import forked


@pytest.mark.parametrize("end", ["None", "0", "3", "'text'", "''", "(1, 2)"])
def test_system_exit_ends_it_as_an_interpreter(end: str) -> None:
    """With that code, and what else it holds on stderr."""
    code = f"import sys; print('out'); sys.exit({end})"
    wanted = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    found = forked(lambda: exec(code))
    assert (found.code, found.stdout, found.stderr) == (
        wanted.returncode,
        wanted.stdout,
        wanted.stderr,
    )


def test_streams_that_cannot_be_flushed() -> None:
    """The process ends; it is no second run of the tests."""

    def call() -> None:
        print("text")
        os.close(1)

    assert forked(call).code != 0


def test_an_interrupted_parent_leaves_no_process(tmp_path: Path) -> None:
    """It kills the other one and waits for it."""
    number = tmp_path / "number"
    parent = Path(f"/proc/{os.getpid()}/stat")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def call() -> None:
        number.write_text(str(os.getpid()))
        while parent.read_text().rpartition(") ")[2][0] != "S":  # it does not wait yet
            time.sleep(0.001)
        os.kill(os.getppid(), signal.SIGUSR1)
        time.sleep(60)

    former = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            forked(call)
    finally:
        signal.signal(signal.SIGUSR1, former)
    with pytest.raises(ProcessLookupError):
        os.kill(int(number.read_text()), 0)
