"""The command line: one file for each verb, imported when the verb is used."""

import atexit
import gc
import importlib
import os
import sys
from collections.abc import Mapping

import click

from streamconv.errors import (
    Interrupted,
    IOFailed,
    StreamconvError,
    UsageError,
    did_you_mean,
    quoted,
)
from streamconv.report.error_lines import ErrorPrinter, notes_of
from streamconv.report.terminal import escaping, say
from streamconv.system.environment_files import check_files_of
from streamconv.system.open_file_limit import raise_open_file_limit
from streamconv.system.signals import (
    exit_on_signals,
    ignore_signals_at_exit,
    outlast_signals,
    raise_on_signals,
)
from streamconv.system.standard_streams import discard_output, open_standard_streams

VERBS = (
    *("inspect", "merge", "split", "convert", "finish", "verify", "check"),
    *("families", "layouts", "smoke"),
)

ALIASES: Mapping[str, str] = {
    **dict.fromkeys(("info", "show", "list", "ls", "stat"), "inspect"),
    **dict.fromkeys(("fuse", "join", "combine", "pack"), "merge"),
    **dict.fromkeys(("unmerge", "unfuse", "unpack", "defuse"), "split"),
    **dict.fromkeys(("cast", "quantize", "dequantize", "reshard", "export", "save"), "convert"),
    **dict.fromkeys(("compare", "diff", "cmp", "validate"), "verify"),
    **dict.fromkeys(("load", "test-load"), "check"),
    **dict.fromkeys(("models", "forms"), "families"),
    **dict.fromkeys(("test", "selftest", "demo"), "smoke"),
}
"""Words that other tools have for our verbs. An error suggests the verb."""
NOTHING_LEFT = "nothing is left at the target; the source is unchanged"
COMPLETE = "_STREAMCONV_COMPLETE"
"""The environment variable with which a shell asks for completions or its completion script."""
NO_VERB = "there is no verb"
NO_LIMIT = 10_000
"""Characters: more than any summary has, so that none is cut, and than any terminal is wide."""

EPILOG = """\b
Examples:
  streamconv inspect Qwen3-30B-A3B
  streamconv merge Qwen3-30B-A3B merged --dry-run
  streamconv merge Qwen3-30B-A3B merged
  streamconv split merged Qwen3-30B-A3B-again

Exit codes: 0 done, 1 unexpected, 2 usage, 3 bad input, 4 plan refused, 5 verification
failed, 6 output exists, 7 no space, 8 reading or writing failed, 130 and 143 interrupted.

Every option can also come from the environment: --max-memory is STREAMCONV_MAX_MEMORY.

\b
Completion of verbs, options, layouts, forms, model types:
  bash  eval "$(_STREAMCONV_COMPLETE=bash_source streamconv)"   in ~/.bashrc
  zsh   eval "$(_STREAMCONV_COMPLETE=zsh_source streamconv)"    in ~/.zshrc
  fish  _STREAMCONV_COMPLETE=fish_source streamconv | source    in config.fish
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

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the verb. Raises click's error, with a note that suggests a verb."""
        word = args[0]
        if word in VERBS or word.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        alias = ALIASES.get(word.casefold())
        meant = f"did you mean {alias}?" if alias else did_you_mean(word, VERBS)
        error = click.UsageError(f"{NO_VERB} {quoted(repr(word))}", ctx)
        if meant:
            error.add_note(meant)
        raise error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the summary of each verb in full."""
        rows = []
        for verb in self.list_commands(ctx):
            command = self.get_command(ctx, verb)
            if command is not None:
                rows.append((verb, command.get_short_help_str(limit=NO_LIMIT)))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from streamconv import __version__

        say(f"streamconv {__version__}")
        ctx.exit()


@click.group(
    cls=_Verbs,
    epilog=EPILOG,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": NO_LIMIT,
    },
)
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
    check_files_of("OPENSSL_CONF")  # Python opens it when it loads hashlib, for most verbs


def main(args: list[str] | None = None) -> None:
    """Run the command line and exit with its code. No bad input ends in a traceback."""
    if os.environ.get(COMPLETE):
        # not escaped: click writes bytes, and these are only our own words and the typed ones
        cli.main(prog_name="streamconv", complete_var=COMPLETE)
    # Nothing here multiplies matrices; numpy's library for it would start a thread for each core.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # A plan is hundreds of thousands of objects without cycles: collecting rarely saves time.
    gc.set_threshold(50_000, 20, 100)
    ignore_signals_at_exit()
    # The memory of a process that ends is not searched for cycles, which would take 20 ms or more.
    atexit.register(gc.freeze)
    raise_open_file_limit()
    open_standard_streams()
    with escaping():
        code = _exit_code_of(args)
    exit_on_signals(code)
    sys.exit(code)


def _exit_code_of(args: list[str] | None) -> int:
    """Run a verb and return its exit code. Interrupted is raised in it once at most."""
    printer = ErrorPrinter(sys.argv[1:] if args is None else args)
    try:
        raise_on_signals()
        code = _run_verb(args, printer)
        outlast_signals()
    except (Interrupted, KeyboardInterrupt, click.Abort) as error:
        stop = error if isinstance(error, Interrupted) else Interrupted("interrupted")
        code = 128 + stop.signal
        printer.print_error(stop, *(notes_of(error) or [NOTHING_LEFT]), exit_code=code)
    return code


def _run_verb(args: list[str] | None, printer: ErrorPrinter) -> int:
    """Run a verb, report what made it fail, and return its exit code.

    Raises:
        Interrupted: A signal ended it. KeyboardInterrupt and click's Abort mean the same.
    """
    try:
        code = cli.main(args, standalone_mode=False)
        sys.stdout.flush()
    except SystemExit:  # click exits if nobody reads its output
        discard_output()
        return IOFailed.exit_code
    except (Interrupted, click.Abort):
        raise
    except Exception as error:
        return _report(error, printer)
    return code if isinstance(code, int) else 0


def _report(error: Exception, printer: ErrorPrinter) -> int:
    """Print the error that made a run fail and return the exit code."""
    outlast_signals()
    if isinstance(error, click.ClickException):
        _print_usage_error(error, printer)
        return error.exit_code
    if isinstance(error, StreamconvError):
        printer.print_error(error, *notes_of(error))
        return error.exit_code
    code = printer.print_unforeseen(error)
    discard_output()
    return code


def _print_usage_error(error: click.ClickException, printer: ErrorPrinter) -> None:
    """Print an error of click in the form of ours. If there were no arguments, print the help."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return
    message = error.format_message().rstrip(".")
    ctx = error.ctx if isinstance(error, click.UsageError) else None
    command = ctx.command_path if ctx else "streamconv"
    what = "all verbs" if message.startswith(NO_VERB) else "arguments and options"
    hint = " ".join([*notes_of(error), f"run `{command} --help` to see {what}"])
    shown = UsageError(message[:1].lower() + message[1:], hint)
    printer.print_error(shown, exit_code=error.exit_code)


__all__ = ["cli", "main"]
