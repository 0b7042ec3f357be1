"""The command line: one file for each verb, imported when the verb is used."""

import importlib
import io
import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from errno import ENOMEM
from pathlib import Path
from types import FrameType

import click

from streamconv.errors import Interrupted, IOFailed, StreamconvError
from streamconv.report.terminal import escaping, say
from streamconv.system.open_file_limit import raise_open_file_limit

VERBS = (
    *("inspect", "merge", "split", "convert", "finish", "verify", "check"),
    *("families", "layouts", "smoke"),
)

NOTHING_LEFT = "nothing is left at the target; the source is unchanged"
ERROR = "streamconv: "
SIGNAL_DEBOUNCE_SECONDS = 0.5
"""Signals within this time of the first one are the same request to stop."""

EPILOG = """\b
Examples:
  streamconv inspect Qwen3-30B-A3B
  streamconv merge Qwen3-30B-A3B merged --dry-run
  streamconv merge Qwen3-30B-A3B merged
  streamconv split merged Qwen3-30B-A3B-again

\b
Exit codes: 0 done, 1 unexpected, 2 usage, 3 bad input, 4 plan refused, 5 verification
failed, 6 output exists, 7 no space, 8 reading or writing failed, 130 and 143 interrupted.
Every option can also come from the environment: --max-memory is STREAMCONV_MAX_MEMORY.
"""


class _Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"streamconv.cli.{cmd_name}")
        command: click.Command = module.command
        return command


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from streamconv import __version__

        say(f"streamconv {__version__}")
        ctx.exit()


@click.group(cls=_Verbs, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version.",
)
def cli() -> None:
    """Convert Mixture-of-Experts checkpoints from one expert layout to another, streamed.

    Reads headers only to make a complete plan, then moves the experts one by one, bit for bit,
    in under a hundred megabytes of memory for a 30B model.
    """


def _interrupt(number: int, frame: FrameType | None) -> None:
    """End the run by an exception; let a second signal end the process at once.

    A signal that follows within half a second counts as the first one: `timeout` and launchers
    send each both to the process and to its group.
    """
    begin = time.monotonic()

    def exit_at_once(number: int, frame: FrameType | None) -> None:
        if time.monotonic() - begin > SIGNAL_DEBOUNCE_SECONDS:
            os._exit(128 + number)

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, exit_at_once)
    raise Interrupted("interrupted" if number == signal.SIGINT else "terminated", signal=number)


def main(args: list[str] | None = None) -> None:
    """Run the command line and exit with its code. No bad input ends in a traceback."""
    # Nothing here multiplies matrices; numpy's library for it would start a thread for each core.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    raise_open_file_limit()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    _open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with escaping():
        sys.exit(_exit_code_of(args))


def _exit_code_of(args: list[str] | None) -> int:
    """Run a verb and return its exit code."""
    try:
        code = cli.main(args, standalone_mode=False)
        sys.stdout.flush()
    except SystemExit:  # click's answer to an output that nobody reads
        _discard_output()
        return IOFailed.exit_code
    except click.ClickException as error:
        _print_usage_error(error)
        return error.exit_code
    except (Interrupted, KeyboardInterrupt, click.Abort) as error:
        stop = error if isinstance(error, Interrupted) else Interrupted("interrupted")
        _print_error(stop.message, *(_notes(error) or [NOTHING_LEFT]))
        return 128 + stop.signal
    except StreamconvError as error:
        _print_error(error.message, error.hint, *_notes(error))
        _print_traceback()
        return error.exit_code
    except Exception as error:
        code = _report_unforeseen(error)
        _discard_output()
        return code
    return code if isinstance(code, int) else 0


def _report_unforeseen(error: Exception) -> int:
    """Print an error that nothing has put into words; return the exit code."""
    code = IOFailed.exit_code
    if isinstance(error, BrokenPipeError):  # whoever reads the output has seen enough
        return code
    if isinstance(error, OSError) and error.errno != ENOMEM:
        message, hint = _system_error(error)
    elif isinstance(error, MemoryError | ImportError | OSError):
        said = error.strerror if isinstance(error, OSError) else str(error).partition("\n")[0]
        message = f"cannot run: {said or 'there is not enough memory'}"
        hint = "allow the process more memory, or install streamconv again"
    elif isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        message = "cannot run: no thread can be started"
        hint = "lift the limits of the process, or run fewer workers with --jobs"
    else:
        code = StreamconvError.exit_code
        message = f"unexpected error: {type(error).__name__}: {error}"
        hint = "set STREAMCONV_DEBUG=1 to see the traceback"
    _print_error(message, hint, *_notes(error))
    _print_traceback()
    return code


def _open_standard_streams() -> None:
    """Open /dev/null in the place of standard streams that are closed.

    Else the next file that is opened, such as a shard, has the number of one of them.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, io.TextIOWrapper(io.FileIO(os.devnull, "w"), encoding="utf-8"))


def _discard_output() -> None:
    """Prevent the interpreter from failing at exit because of output that nobody reads."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _print_error(message: str, *more: str) -> None:
    """Print an error on stderr: the message, then hints and notes in lines of their own."""
    indent = " " * len(ERROR)
    with suppress(OSError):
        say(ERROR + message, *(f"{indent}{line}" for line in more if line), err=True)


def _system_error(error: OSError) -> tuple[str, str]:
    """Return the message and hint for an error of the system that nothing else has explained."""
    try:
        Path.cwd()
    except OSError:
        return (
            "cannot use relative paths: the working directory has been removed",
            "change to another folder, or give absolute paths",
        )
    path = "" if error.filename is None else f" {error.filename}"
    return f"cannot read or write{path}: {error.strerror or error}", ""


def _print_usage_error(error: click.ClickException) -> None:
    """Print an error of click's like one of ours; without any arguments, print the help."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return
    message = error.format_message().rstrip(".")
    ctx = error.ctx if isinstance(error, click.UsageError) else None
    command = ctx.command_path if ctx else "streamconv"
    hint = f"run `{command} --help` to see arguments and options"
    _print_error(message[:1].lower() + message[1:], hint)


def _print_traceback() -> None:
    """Print the traceback of the current exception if STREAMCONV_DEBUG is set."""
    if os.environ.get("STREAMCONV_DEBUG"):
        traceback.print_exc()


def _notes(error: BaseException) -> list[str]:
    """Return what a stopped conversion has left, and how to resume it."""
    return list(getattr(error, "__notes__", []))


__all__ = ["cli", "main"]
