"""Every verb explains itself, and every option has its variable in the environment."""

from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from streamconv.cli import VERBS, cli


def invoke(*words: object, **environment: str) -> Result:
    """Run the command line in this process. Fails if it does not exit with 0."""
    result = attempt(*words, **environment)
    if result.exception is not None:
        raise result.exception
    return result


def attempt(*words: object, **environment: str) -> Result:
    """Run the command line in this process. The result has the exception, if there is one."""
    return CliRunner().invoke(cli, list(map(str, words)), env=environment, standalone_mode=False)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_of_a_verb(verb: str, flag: str) -> None:
    shown = invoke(verb, flag).stdout
    assert shown.startswith("Usage: ")
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name
            assert all(name in shown for name in parameter.opts)


def test_help_after_a_context_without_settings() -> None:
    """The option of the first context is kept; a plain one must not take `-h` away."""
    command = cli.get_command(click.Context(cli), "merge")
    assert command is not None
    command._help_option = None
    command.get_help(click.Context(command, info_name="merge"))
    assert invoke("merge", "-h").stdout.startswith("Usage: ")


def test_help_names_every_verb_and_exit_code() -> None:
    shown = invoke("--help").stdout
    assert [verb for verb in VERBS if f"\n  {verb} " not in shown] == []
    for code in ("2 usage", "3 bad input", "4 plan refused", "6 output exists", "7 no space"):
        assert code in " ".join(shown.split())
    assert "STREAMCONV_MAX_MEMORY" in shown


def test_every_option_has_its_variable() -> None:
    """Named after the option, the same for every verb."""
    for verb in VERBS:
        command = cli.get_command(click.Context(cli), verb)
        assert command is not None
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                envvar: Any = parameter.envvar
                long = next(name for name in parameter.opts if name.startswith("--"))
                name = long.removeprefix("--").replace("-", "_").upper()
                variables = [envvar] if isinstance(envvar, str) else [*(envvar or ())]
                assert f"STREAMCONV_{name}" in variables, verb
