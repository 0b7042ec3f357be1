"""The command line: one file a verb, loaded when it is asked for."""

import importlib
import io
import os
import signal
import sys
import traceback
from types import FrameType

import click

from streamconv.errors import Interrupted, StreamconvError

VERBS = ("inspect", "merge", "split", "convert", "verify", "check", "smoke")

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

        click.echo(f"streamconv {__version__}")
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
    """Ends the run by an exception, once: what follows must not disturb the clearing up."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise Interrupted("interrupted" if number == signal.SIGINT else "terminated", signal=number)


def main(args: list[str] | None = None) -> None:
    """Run the command line and exit with its code. No bad input ends in a traceback."""
    # numpy's matrix library would start a thread for each core, and nothing here multiplies
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = cli.main(args, standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except Interrupted as error:
        _say(error.message, "nothing is left at the target, the source is as it was")
        sys.exit(128 + error.signal)
    except (KeyboardInterrupt, click.Abort):
        _say("interrupted", "nothing is left at the target, the source is as it was")
        sys.exit(Interrupted.exit_code)
    except StreamconvError as error:
        _say(error.message, error.hint)
        _trace()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        _say(f"unexpected: {type(error).__name__}: {error}", "STREAMCONV_DEBUG=1 shows where")
        _trace()
        sys.exit(1)


def _say(message: str, hint: str = "") -> None:
    click.echo(f"streamconv: {message}" + (f"\n            {hint}" if hint else ""), err=True)


def _trace() -> None:
    if os.environ.get("STREAMCONV_DEBUG"):
        traceback.print_exc()


__all__ = ["cli", "main"]
