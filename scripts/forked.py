"""Run something in a fork of this process, which has imported what it needs already."""

import os
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

    SystemExit ends it as it ends an interpreter, and any other exception with 1 and a traceback.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
                sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
                warnings.simplefilter("ignore")
                call()
                code = 0
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        out.seek(0)
        err.seek(0)
        return Ended(code, out.read(), err.read())


def command_line(*words: object) -> Ended:
    """Return what becomes of a command line of ours in a process that is forked from this one."""
    from streamconv.cli import main

    return forked(lambda: main([str(word) for word in words]))
