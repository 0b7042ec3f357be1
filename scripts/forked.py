"""Run something in a fork of this process, which has imported what it needs already."""

import contextlib
import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ended:
    """What a process that has ended leaves to its parent."""

    code: int
    """The exit code, negative for a signal."""
    stdout: bytes
    stderr: bytes


def forked(call: Callable[[], object]) -> Ended:
    """Return what becomes of a call in a process of its own, whose streams are files.

    SystemExit ends it as it ends an interpreter, and any other exception with 1 and a traceback. If
    this process is interrupted meanwhile, the other one is killed.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if pid == 0:
            _be_the_child(call, out.fileno(), err.fileno())
        try:
            status = os.waitpid(pid, 0)[1]
        except BaseException:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            raise
        out.seek(0)
        err.seek(0)
        return Ended(os.waitstatus_to_exitcode(status), out.read(), err.read())


def _be_the_child(call: Callable[[], object], out: int, err: int) -> None:
    """Run a call with these descriptors as streams, and exit, whatever happens."""
    code = 1
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        warnings.simplefilter("ignore")
        code = _exit_code(call)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        code = code or 1  # as an interpreter that cannot flush its streams
    finally:
        os._exit(code)


def _exit_code(call: Callable[[], object]) -> int:
    """Return the exit code that an interpreter would have after a call."""
    try:
        call()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def command_line(*words: object) -> Ended:
    """Return what becomes of a command line of ours in a process that is forked from this one."""
    from streamconv.cli import main

    return forked(lambda: main([str(word) for word in words]))
