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

PROMPT = "$ "
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"[\d.,]*\d(?: ?(?:[kMGT]?B|s|min|h|%)\b)?(?:/s)?")
_RULE = re.compile(r"([─━╴╸═-])\1+")


def run_blocks(document: str, folder: Path) -> str:
    """Return a document with the outputs of its commands, run in a process of their own.

    Raises AssertionError with what was printed if a block fails.
    """
    environment = {**os.environ, "COLUMNS": "80", "STREAMCONV_NO_PROGRESS": "1", "NO_COLOR": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).resolve().parents[1])])
    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), "-"],
        input=document,
        cwd=folder,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


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
        done = subprocess.run(
            [sys.executable, "-m", "streamconv", *shlex.split(line)[2:]],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        fails = shown.startswith("streamconv: ")
        assert (done.returncode != 0) == fails, f"{line}\n{done.stdout}"
        output = done.stdout.replace(f"{Path.cwd()}/", "")
        yield f"{line}\n"
        if shows_outputs:
            yield "".join(f"{each.rstrip()}\n" for each in output.splitlines())


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
