"""Run the blocks of a document, in their order, in the current folder.

`python` blocks share their names. In a `console` block, a line that begins with `$ streamconv` is
run. Lines below it are its output: those of a document that is printed are what it printed. If they
show an error, the command has to fail; otherwise it must not.

    python scripts/document_blocks.py DOCUMENT      prints the document with the outputs of this run
"""

import os
import re
import shlex
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from forked import command_line, forked

PROMPT = "$ "
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"[\d.,]*\d(?: ?(?:[kMGT]?B|s|min|h|%)\b)?(?:/s)?")
_RULE = re.compile(r"([─━╴╸═-])\1+")


def run_blocks(document: str, folder: Path) -> str:
    """Return a document with the outputs of its commands, run in a fork of this process.

    So a block imports nothing that this process has imported. Raises AssertionError with what was
    printed if a block fails.
    """

    def run() -> None:
        os.chdir(folder)
        os.environ |= {"COLUMNS": "80", "STREAMCONV_NO_PROGRESS": "1", "NO_COLOR": "1"}
        os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
        print("".join(_refreshed(document)), end="")

    done = forked(run)
    assert done.code == 0, done.stderr.decode()
    return done.stdout.decode()


def comparable(text: str) -> list[str]:
    """Return the lines of a document without what differs from run to run: figures and widths."""
    lines = (_RULE.sub(r"\1", _NUMBER.sub("#", line)) for line in text.splitlines())
    return [" ".join(line.split()) for line in lines]


def _refreshed(document: str) -> Iterator[str]:
    """Yield a document in parts, running each block on the way."""
    names: dict[str, Any] = {"__name__": "__main__"}
    position = 0
    for block in BLOCK.finditer(document):
        yield document[position : block.start()]
        position = block.end()
        body = block[2]
        if block[1] == "python":
            with redirect_stdout(StringIO()):
                exec(compile(body, "a block of the document", "exec"), names)
        elif block[1] == "console":
            body = "".join(_console(body))
        yield f"```{block[1]}\n{body}```"
    yield document[position:]


def _console(body: str) -> Iterator[str]:
    """Yield the lines of a console block with the outputs of this run, if it shows outputs."""
    commands = re.split(r"^(?=\$ )", body, flags=re.MULTILINE)
    shows_outputs = any(command.count("\n") > 1 for command in commands)
    for command in filter(None, commands):
        line, _, shown = command.partition("\n")
        assert line.startswith(f"{PROMPT}streamconv "), f"cannot run {line!r}"
        code, output = _run_command(shlex.split(line)[2:])
        fails = shown.startswith("streamconv: ")
        assert (code != 0) == fails, f"{line}\n{output}"
        yield f"{line}\n"
        if shows_outputs:
            output = output.replace(f"{Path.cwd()}/", "")
            yield "".join(f"{each.rstrip()}\n" for each in output.splitlines())


def _run_command(words: list[str]) -> tuple[int, str]:
    """Return exit code and output of a command, which has a new interpreter.

    `check` is forked: to import transformers once more takes longer than everything else.
    """
    if words[0] == "check":
        ended = command_line(*words)
        return ended.code, (ended.stdout + ended.stderr.lstrip()).decode()
    done = subprocess.run(
        [sys.executable, "-m", "streamconv", *words],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


def main() -> None:
    """Print the document on stdin with the outputs of this run."""
    try:
        parts = list(_refreshed(sys.stdin.read()))
    except Exception:
        traceback.print_exc()
        sys.exit(1)
    print("".join(parts), end="")


if __name__ == "__main__":
    main()
