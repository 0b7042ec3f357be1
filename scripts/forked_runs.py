"""Runs the command line in forked children of a process that has imported it already.

A run of a small checkpoint takes a tenth of a second, and its imports five times as long. A child
stops before its first line; `strace` attaches to it there, and sees all that the run does.
"""

import gc
import importlib
import os
import pkgutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

ATTACH_SECONDS = 20
"""How long strace may take to attach to a child."""


def import_all() -> None:
    """Import all that a run can import, so that its children have it."""
    import streamconv

    for module in pkgutil.walk_packages(streamconv.__path__, "streamconv."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in ("numpy", "xxhash", "rich.progress", "rich.table"):
        importlib.import_module(name)
    gc.freeze()


def run_forked(words: Sequence[str], strace: Sequence[str] = ()) -> tuple[int, str]:
    """Run the command line with these words.

    Args:
        words: What a person types after `streamconv`.
        strace: The command that traces the run, without a process; empty for none.

    Returns:
        The exit code, negative for a signal; and what the run printed.
    """
    printed = os.memfd_create("printed")
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if not pid:
        _be_the_run(words, printed, stops=bool(strace))
    tracer = _attach(strace, pid) if strace else None
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if tracer is not None:
        tracer.wait(ATTACH_SECONDS)
    with os.fdopen(printed, "rb") as file:
        file.seek(0)
        return code, file.read().decode(errors="replace")


def _be_the_run(words: Sequence[str], printed: int, *, stops: bool) -> None:
    """Be the child: print to `printed`, stop if it is traced, run, and end."""
    code = 70
    try:
        for fd in (1, 2):
            os.dup2(printed, fd)
        if stops:
            os.kill(os.getpid(), signal.SIGSTOP)
        from streamconv.cli import main

        main([*words])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _attach(strace: Sequence[str], pid: int) -> "subprocess.Popen[bytes]":
    """Trace a child that has stopped, or is about to, and let it go on."""
    os.waitpid(pid, os.WUNTRACED)
    tracer = subprocess.Popen([*strace, "-p", str(pid)], stderr=subprocess.DEVNULL)
    end = time.monotonic() + ATTACH_SECONDS
    while "TracerPid:\t0\n" in Path(f"/proc/{pid}/status").read_text():
        if tracer.poll() is not None or time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise SystemExit(f"strace does not attach: {' '.join(strace)}")
        time.sleep(0.001)
    os.kill(pid, signal.SIGCONT)
    return tracer
