"""SIGINT and SIGTERM before, while and after a verb runs: from outside, no process ends oddly."""

import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from import_graph import ROOT

LISTENING = "import os, runpy, signal, sys, time; signal.signal(signal.SIGINT, signal.{handler})\n"
"""A process that listens to SIGINT as one in the foreground does, wherever the tests run."""
RUN = "runpy.run_module('streamconv', run_name='__main__', alter_sys=True)\n"
NUMBERS = (signal.SIGINT, signal.SIGTERM)


def run(
    code: str, *words: str, handler: str = "default_int_handler", path: Path | None = None
) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr of a process that runs `code` with these arguments."""
    done = subprocess.run(
        [sys.executable, "-c", LISTENING.format(handler=handler) + code, *words],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": f"{path or ''}:{ROOT.parent}"},
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("number", NUMBERS)
def test_while_the_command_line_is_imported(tmp_path: Path, number: signal.Signals) -> None:
    """By the signal itself, at once, and without a word."""
    early = f"import os, time; os.kill(os.getpid(), {int(number)}); time.sleep(0.1)\n"
    (tmp_path / "click.py").write_text(early + "print('goes on', flush=True)\n")
    assert run(RUN, "--version", path=tmp_path) == (-number, "", "")


def test_an_ignored_signal_stays_ignored_meanwhile(tmp_path: Path) -> None:
    """As after `nohup`, or in the background of a script."""
    early = "import os; os.kill(os.getpid(), 2); print('goes on', flush=True); os._exit(7)\n"
    (tmp_path / "click.py").write_text(early)
    assert run(RUN, "--version", path=tmp_path, handler="SIG_IGN") == (7, "goes on\n", "")


def test_the_command_begins_where_the_module_does() -> None:
    """Otherwise the command would be imported under Python's own handler."""
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"streamconv": "streamconv.__main__:main"}


BROKEN_VERB = """
import streamconv.cli.layouts as verb, streamconv.cli as cli
send = lambda: (os.kill(os.getpid(), {number}), time.sleep(0.01))
"""


@pytest.mark.parametrize("number", NUMBERS)
def test_while_a_verb_runs(number: signal.Signals) -> None:
    """Reported in one sentence."""
    code = BROKEN_VERB + "verb.command.callback = lambda **_: send()\n"
    ended, out, err = run(code.format(number=int(number)) + RUN, "layouts")
    assert (ended, out) == (128 + number, "")
    assert err.startswith(f"streamconv: {'interrupted' if number == 2 else 'terminated'}\n")
    assert err.count("\n") == 2


@pytest.mark.parametrize("number", NUMBERS)
def test_while_an_error_is_reported(number: signal.Signals) -> None:
    """The error is what ended the run."""
    code = BROKEN_VERB + (
        "from streamconv.report.error_lines import ErrorPrinter as Printer\n"
        "shown = Printer.print_error\n"
        "Printer.print_error = lambda *args, **named: (send(), shown(*args, **named))[1]\n"
    )
    ended, out, err = run(code.format(number=int(number)) + RUN, "layouts", "--nonsense")
    assert (ended, out) == (2, "")
    assert err.startswith("streamconv: no such option")
    assert "Traceback" not in err
    assert "interrupted" not in err


@pytest.mark.parametrize("number", NUMBERS)
def test_while_a_result_is_printed(number: signal.Signals) -> None:
    """It is the whole result, and the exit code is that of the run."""
    code = BROKEN_VERB + (
        "from streamconv.cli._output import Output\n"
        "from types import SimpleNamespace as Any\n"
        "import streamconv.report.messages as messages\n"
        "messages.verification_lines = lambda _: (send(), ['the', 'result'])[1]\n"
        "result = Any(require=send)\n"
        "verb.command.callback = lambda **_: Output(False, False).show_verification(result)\n"
    )
    assert run(code.format(number=int(number)) + RUN, "layouts") == (0, "the\nresult\n", "")


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(("words", "code"), [(["--version"], 0), (["--nonsense"], 2)])
def test_while_the_interpreter_waits_for_threads(
    number: signal.Signals, words: list[str], code: int
) -> None:
    """The run is over, and its exit code says how."""
    late = (
        "import threading\n"
        "def late():\n"
        "    while threading.main_thread().is_alive(): time.sleep(0.01)\n"
        f"    os.kill(os.getpid(), {int(number)})\n"
        "    time.sleep(0.2)\n"
        "threading.Thread(target=late).start()\n"
    )
    ended, _, err = run(late + RUN, *words)
    assert (ended, "Traceback" in err) == (code, False)


AT_THE_END = """
class Last:
    def __init__(self):
        self.kill, self.sleep, self.pid = os.kill, time.sleep, os.getpid()
    def __del__(self):
        self.kill(self.pid, {number})
        self.sleep(0.1)
sys.ps1 = Last()
"""
"""What the interpreter removes from `sys` after it has given up its handlers."""


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("is_interrupted", [False, True])
def test_while_the_interpreter_ends(number: signal.Signals, is_interrupted: bool) -> None:
    """The signal changes nothing; also if another one has ended the run."""
    code = BROKEN_VERB.format(number=int(signal.SIGINT))
    code += "verb.command.callback = lambda **_: send()\n" if is_interrupted else ""
    code += AT_THE_END.format(number=int(number))
    ended, _, err = run(code + RUN, "layouts")
    assert (ended, "Traceback" in err) == (130 if is_interrupted else 0, False)
