"""What a process needs may be missing: streams, its folder, memory. One line, no traceback."""

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from folders import qwen_tensors, tree, two_shards, write_checkpoint
from forked import command_line

import streamconv

COMMAND = [sys.executable, "-m", "streamconv"]


@pytest.fixture
def src(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "src", two_shards(qwen_tensors()))


def shell(line: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run a line in which STREAMCONV is the command line."""
    line = line.replace("STREAMCONV", f"{sys.executable} -m streamconv")
    done = subprocess.run(
        ["bash", "-c", line], cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )
    assert "Traceback" not in done.stderr
    return done


LINES = ("inspect src", "inspect src --json", "verify src --json", "families")
ALL_CLOSED = "<&- >&- 2>&-"


@pytest.mark.parametrize(
    ("closed", "lines"),
    [("<&-", LINES[:1]), (">&-", LINES[1:]), ("2>&-", LINES[:1]), (ALL_CLOSED, LINES)],
)
def test_closed_streams(src: Path, tmp_path: Path, closed: str, lines: tuple[str, ...]) -> None:
    """The result is that of any other run; no file gets the number of a stream."""
    streamconv.merge(src, tmp_path / "wanted")
    assert shell(f"STREAMCONV merge src out {closed}", tmp_path).returncode == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "wanted")
    for line in lines:
        assert shell(f"STREAMCONV {line} {closed}", tmp_path).returncode == 0
    assert shell(f"STREAMCONV inspect nothing {closed}", tmp_path).returncode == 3


def test_output_that_cannot_be_written(src: Path, tmp_path: Path) -> None:
    """It is an error of writing; that of the error itself is not."""
    for line in ("inspect src", "inspect src --json", "layouts", "--help"):
        done = shell(f"STREAMCONV {line} >/dev/full", tmp_path)
        assert done.returncode == 8
        assert "cannot read or write: No space left on device" in done.stderr
        assert done.stderr.startswith('{"schema"' if "--json" in line else "streamconv: ")
    assert shell("STREAMCONV inspect nothing 2>/dev/full", tmp_path).returncode == 3


@pytest.mark.parametrize(
    "line",
    ["inspect src", "merge src out", "verify src", "check src", "finish out", "smoke"],
)
def test_settings_of_openssl_that_are_no_file(src: Path, tmp_path: Path, line: str) -> None:
    """Python reads them when it loads hashlib, and would wait for a FIFO."""
    os.mkfifo(tmp_path / "fifo")
    done = shell(f"OPENSSL_CONF={tmp_path}/fifo STREAMCONV {line}", tmp_path)
    assert done.returncode == 2
    assert f"cannot use OPENSSL_CONF: {tmp_path}/fifo is not a regular file" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fifo", "src"]


@pytest.mark.parametrize("line", ["inspect src --json", "layouts", "merge src out -n"])
def test_nobody_reads_the_output(src: Path, tmp_path: Path, line: str) -> None:
    """Silent, as other programs are."""
    done = shell(f"set -o pipefail; STREAMCONV {line} | (exec 0<&-; sleep 3)", tmp_path)
    assert (done.returncode, done.stderr) == (8, "")


@pytest.mark.parametrize(
    ("line", "code"),
    [("merge x y", 8), ("finish x", 8), ("inspect x", 3), ("inspect ../src", 3), ("--help", 0)],
)
def test_the_working_directory_is_gone(src: Path, tmp_path: Path, line: str, code: int) -> None:
    """Paths that need it lead nowhere; others work."""
    gone = tmp_path / "gone"
    gone.mkdir()
    done = shell(f"rmdir ../gone; STREAMCONV {line}", gone)
    assert done.returncode == code, done.stderr
    assert done.stderr.count("streamconv: ") == (code != 0)


def limited(nbytes: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_AS, (nbytes, nbytes))


@pytest.mark.parametrize("verb", ["merge", "verify"])
@pytest.mark.parametrize("megabytes", [50, 70, 90, 110, 130, 150, 180])
def test_too_little_address_space(src: Path, tmp_path: Path, verb: str, megabytes: int) -> None:
    """Refused in one line, also where numpy's library would end the process; or it suffices."""
    done = subprocess.run(
        [*COMMAND, verb, str(src), *([str(tmp_path / "out")] if verb == "merge" else [])],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limited(megabytes * 10**6),
        timeout=60,
    )
    assert done.returncode in (0, 4, 8), done.stderr
    if done.returncode:
        assert re.search("^streamconv: cannot (start|run): ", done.stderr, re.MULTILINE)
        assert not os.path.lexists(tmp_path / "out")


@pytest.mark.parametrize("target", ["/proc/out", "/sys/out", "/proc/self/out", "/dev/full/out"])
@pytest.mark.parametrize("more", [(), ("--resume",), ("--part", "1/2"), ("--overwrite",)], ids=str)
def test_a_target_where_nothing_can_be_made(src: Path, target: str, more: tuple[str, ...]) -> None:
    """The error comes at once, with the path."""
    done = command_line("merge", src, target, *more)
    assert done.code in (6, 8), done.stderr
    assert target in done.stderr.decode()


@pytest.mark.parametrize("options", [[], ["--format", "dcp", "--verify"], ["--dtype", "fp32"]])
def test_the_memory_that_a_dry_run_projects_is_enough(
    src: Path, tmp_path: Path, options: list[str]
) -> None:
    """A plan alone has imported less than a run."""
    words = ["merge", src, tmp_path / "out", *options, "--json"]
    dry = subprocess.run([*COMMAND, *words, "-n"], check=True, capture_output=True)
    projected = json.loads(dry.stdout)["memory"]["projected_peak_bytes"]
    limited = [*COMMAND, *words, "--max-memory", f"{projected}B"]
    done = subprocess.run(limited, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["peak_memory_bytes"] <= projected


def test_what_moves_bytes_is_imported_after_the_plan(src: Path, tmp_path: Path) -> None:
    """So that its memory is not needed on top of what planning takes for a while."""
    script = (
        "import sys, streamconv.planning.limits as limits\n"
        "peak_bytes = limits.peak_bytes\n"
        "limits.peak_bytes = lambda: print('numpy' in sys.modules) or peak_bytes()\n"
        "import streamconv\n"
        "streamconv.merge(sys.argv[1], sys.argv[2])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, src, tmp_path / "out"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "False\n"
