"""The help of a verb: options in groups, examples as they are typed."""

import click
import pytest
from click.testing import CliRunner

from streamconv.cli._verb import TITLES, GroupedOption, Verb

EXAMPLES = ("go here", f"go there --with {'a-long-word-' * 12}")


def verb(*examples: str) -> Verb:
    """A verb with an option in each of two groups, in the other order."""
    options = [
        GroupedOption(["--quiet"], group="display", is_flag=True, help="Say nothing."),
        GroupedOption(["--to"], group="layout", help="Go there."),
    ]
    return Verb("go", params=[*options], callback=lambda **_: None, examples=examples)


def shown(command: Verb) -> str:
    return CliRunner().invoke(command, ["--help"]).stdout


def test_options_are_listed_by_groups() -> None:
    """In the order of the groups; a group without options has no title."""
    text = shown(verb(*EXAMPLES))
    order = [text.index(part) for part in ("Layout:", "--to", "Display:", "--quiet", "Examples:")]
    assert order == sorted(order)
    others = {*TITLES.values()} - {"Layout", "Display"}
    assert not [title for title in others if f"{title}:" in text]


def test_examples_are_not_wrapped() -> None:
    """Each can be copied from the terminal, however narrow it is."""
    lines = shown(verb(*EXAMPLES)).splitlines()
    assert [line.strip() for line in lines[-2:]] == [*EXAMPLES]
    assert "Example:" in shown(verb("go"))


def test_help_has_both_names_under_any_context() -> None:
    """click keeps the help option of the first context that asks."""
    command = verb("go")
    command.get_help_option(click.Context(command))
    assert CliRunner().invoke(command, ["-h"]).exit_code == 0


def test_an_option_without_its_value_names_the_verb() -> None:
    command = verb("go")
    with pytest.raises(click.UsageError) as caught:
        command.main(["--to"], standalone_mode=False)
    assert caught.value.ctx is not None
    assert caught.value.ctx.command is command
