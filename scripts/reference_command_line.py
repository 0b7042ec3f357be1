"""The reference of the command line: what `--help` of each verb says, as Markdown.

click writes help through a formatter. This one keeps what it is given, so that groups of options,
examples and anything else that help gets are here too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import click
from markdown_text import escaped, lines, table

from streamconv.cli import VERBS, cli

CONVERTING = ("merge", "split", "convert")
"""The verbs that have most of their options in common."""
Rows = list[tuple[str, str]]


@dataclass
class Help:
    """What help says of a command."""

    usage: str = ""
    texts: list[str] = field(default_factory=list)
    sections: dict[str, Rows] = field(default_factory=dict)


class _Recorder(click.HelpFormatter):
    """Keeps the parts of a help text instead of laying them out."""

    def __init__(self) -> None:
        super().__init__(width=10_000)
        self.help = Help()
        self._section = ""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        self.help.usage = f"{prog} {args}"

    def write_heading(self, heading: str) -> None:
        self._section = heading

    def write_text(self, text: str) -> None:
        self.help.texts.append(text)

    def write_dl(
        self, rows: Sequence[tuple[str, str]], col_max: int = 30, col_spacing: int = 2
    ) -> None:
        self.help.sections.setdefault(self._section, []).extend(rows)


def page() -> str:
    """Return the page."""
    top = help_of(cli, "streamconv")
    verbs = {verb: help_of(_command(verb), f"streamconv {verb}") for verb in VERBS}
    shared = _shared(verbs)
    return lines(
        "# Command line",
        "",
        *_texts(top.texts),
        "## Verbs",
        "",
        table(
            ("verb", "what it does"),
            ((f"[`{verb}`](#{verb})", escaped(_summary(verbs[verb]))) for verb in VERBS),
        ),
        "## Options of merge, split and convert",
        "",
        *(_options(name, rows) for name, rows in shared.items()),
        *(_verb(verb, verbs[verb], shared if verb in CONVERTING else {}) for verb in VERBS),
    )


def help_of(command: click.Command, name: str) -> Help:
    """Return what the help of a command says."""
    recorder = _Recorder()
    command.format_help(click.Context(command, info_name=name), recorder)
    return recorder.help


def _command(verb: str) -> click.Command:
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    return command


def _summary(verb: Help) -> str:
    return verb.texts[0].partition("\n\n")[0].replace("\n", " ")


def _shared(verbs: dict[str, Help]) -> dict[str, Rows]:
    """Return the options that all converting verbs have, in their sections."""
    first, *others = (verbs[verb].sections for verb in CONVERTING)
    everywhere = [{row for rows in sections.values() for row in rows} for sections in others]
    return {
        name: kept
        for name, rows in first.items()
        if (kept := [row for row in rows if all(row in found for found in everywhere)])
    }


def _verb(verb: str, said: Help, shared: dict[str, Rows]) -> Iterator[str]:
    """Yield the section of a verb, without the options that are shared."""
    yield from (f"## {verb}", "", "```text", said.usage, "```", "")
    yield from _texts(said.texts)
    if shared:
        link = "[options of merge, split and convert](#options-of-merge-split-and-convert)"
        yield from (f"It has the {link}, and its own:", "")
    known = {row for rows in shared.values() for row in rows}
    for name, rows in said.sections.items():
        if own := [row for row in rows if row not in known]:
            yield from _options(name, own)


def _options(name: str, rows: Rows) -> Iterator[str]:
    """Yield a table of options, with the name of their group if there is one."""
    group = name if name.isupper() else name.lower()
    heading = "option" if name in ("", "Options") else f"option ({group})"
    shown = ((f"`{option}`", escaped(" ".join(text.split()))) for option, text in rows)
    yield from table((heading, "what it does"), shown)


def _texts(texts: Sequence[str]) -> Iterator[str]:
    """Yield the paragraphs of help; those that keep their lines become blocks of text."""
    for text in texts:
        for paragraph in text.strip().split("\n\n"):
            if paragraph.startswith("\b"):
                yield from ("```text", *paragraph.splitlines()[1:], "```", "")
            else:
                yield from (escaped(" ".join(paragraph.split())), "")
