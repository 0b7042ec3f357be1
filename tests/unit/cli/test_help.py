"""Help in groups, as wide as the terminal, with examples that can be typed."""

import shlex
from typing import Any

import click
import pytest
from click.testing import CliRunner

from streamconv.cli import VERBS, cli, main
from streamconv.cli._verb import TITLES, GroupedOption, Verb


def verb_of(name: str) -> Verb:
    command = cli.get_command(click.Context(cli), name)
    assert isinstance(command, Verb)
    return command


def help_of(*words: str, width: int = 80) -> str:
    """Return what --help shows on a terminal of this width."""
    names: dict[str, Any] = {"terminal_width": width, "max_content_width": width}
    ctx = click.Context(cli, info_name="streamconv", **names)
    if not words:
        return cli.get_help(ctx)
    return verb_of(words[0]).get_help(click.Context(verb_of(words[0]), ctx, words[0], **names))


def test_the_groups_of_a_conversion() -> None:
    """Each has its heading, in this order, and no option is outside of them."""
    for verb in ("merge", "split", "convert"):
        shown = help_of(verb)
        places = [shown.index(f"\n{title}:\n") for title in TITLES.values()]
        assert places == sorted(places)
        assert "\nOptions:\n" not in shown
        for parameter in verb_of(verb).params:
            assert isinstance(parameter, GroupedOption | click.Argument)
    assert set(TITLES) > {"layout", "output", "resources", "number formats", "DCP", "display"}


@pytest.mark.parametrize("verb", VERBS)
def test_examples_can_be_typed(verb: str) -> None:
    """At least one of the verb itself; click accepts all of them."""
    examples = verb_of(verb).examples
    assert any(shlex.split(example)[1] == verb for example in examples)
    for example in examples:
        tool, name, *rest = shlex.split(example)
        assert tool == "streamconv"
        verb_of(name).make_context(name, list(rest))
        assert f"\n  {example}\n" in f"{help_of(verb)}\n"


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_as_wide_as_the_terminal(width: int) -> None:
    """No line is longer, except for an example that must not be broken; wide ones are used."""
    for words in ((), *((verb,) for verb in VERBS)):
        lines = help_of(*words, width=width).splitlines()
        typed = {line for line in lines if "streamconv" in line}
        assert max(len(line) for line in lines if line not in typed) <= width
    assert max(map(len, help_of("merge", width=width).splitlines())) > width - 8


def test_nothing_is_wider_than_80_columns() -> None:
    """Lines that are typed as they are fit as well."""
    for words in ((), *((verb,) for verb in VERBS)):
        assert max(map(len, help_of(*words).splitlines())) <= 80


def test_an_option_without_a_value(capsys: pytest.CaptureFixture[str]) -> None:
    """The hint names the help of the verb, which has the option."""
    with pytest.raises(SystemExit) as caught:
        main(["merge", "src", "dst", "--to"])
    assert caught.value.code == 2
    message, hint = capsys.readouterr().err.splitlines()
    assert message == "streamconv: option '--to' requires an argument"
    assert hint.endswith(" merge --help` to see arguments and options")


def test_the_width_is_that_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each call: not the 80 columns that click stops at."""
    monkeypatch.setenv("COLUMNS", "150")
    shown = CliRunner().invoke(cli, ["merge", "--help"], terminal_width=150).stdout
    assert max(map(len, shown.splitlines())) > 120


@pytest.mark.parametrize("width", [60, 80, 140])
def test_summaries_are_whole(width: int) -> None:
    """They end where the first sentence of the verb's help ends."""
    shown = " ".join(help_of(width=width).split())
    assert "..." not in shown.replace("[ARGS]...", "")
    for verb in VERBS:
        first = " ".join((verb_of(verb).help or "").split("\n\n")[0].split())
        assert f"{verb} {first.partition('. ')[0].rstrip('.')}" in shown, verb
