"""A wrong argument ends in one sentence that names it, before anything is read."""

import functools
import inspect
import os
from collections.abc import Callable
from enum import Enum, IntEnum
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from folders import qwen_tensors, two_shards, write_checkpoint

import streamconv
from streamconv.api.argument_checks import EMPTY_ALLOWED, checked_value
from streamconv.api.run_options import RunOptions
from streamconv.options import LazyOptions, Location, Reading

FUNCTIONS: dict[str, type | None] = {
    **dict.fromkeys(("inspect", "verify"), Reading),
    **dict.fromkeys(("open", "load"), LazyOptions),
    **dict.fromkeys(("plan", "merge", "split", "convert"), RunOptions),
    **dict.fromkeys(("check", "finish"), None),
}
NOT_OF_A_PLAN = {"overwrite", "resume", "verify", "on_event"}


class Strange:
    """A value that no argument takes."""


def arguments(name: str) -> list[str]:
    """Return the names of all arguments of a public function whose type is an option's."""
    function = getattr(streamconv, name)
    parameters = inspect.signature(function).parameters.values()
    own = [p.name for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD]
    options = FUNCTIONS[name]
    more = list(options.__annotations__) if options else []
    known = [each for each in own + more if each != "module"]
    return [each for each in known if name != "plan" or each not in NOT_OF_A_PLAN]


CASES = [(name, argument) for name in FUNCTIONS for argument in arguments(name)]


def call(name: str, argument: str, value: Any) -> None:
    """Call a public function with one argument that is wrong, and paths that do not exist."""
    function: Callable[..., Any] = getattr(streamconv, name)
    needed = {"src": "no/source", "dst": "no/target", "module": None}
    needed |= {"named_tensors": (), "to": "fused", "config": {}} if name == "relay" else {}
    given = {
        key: value for key, value in needed.items() if key in inspect.signature(function).parameters
    }
    function(**(given | {argument: value}))


def test_there_are_cases() -> None:
    assert len(CASES) > 100


@pytest.mark.parametrize(("name", "argument"), CASES)
def test_a_wrong_type(
    name: str, argument: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every argument of every function."""
    monkeypatch.chdir(tmp_path)
    said = rf"^{name}\(\) argument '{argument}' must be [a-zA-Z., ]+, not Strange$"
    with pytest.raises(TypeError, match=said):
        call(name, argument, Strange())
    assert not list(tmp_path.iterdir())


TEXTS = [
    *(case for case in CASES if case[1] not in {*EMPTY_ALLOWED, "sample"}),
    *(("relay", argument) for argument in ("to", "config", "source", "family")),
]
MEANT_BY_NOBODY = {
    "": r"it is empty",
    "a\0b": r"a\\x00b has a null character",
    "a\ud800b": r"a\\ud800b has half of a character",
    "x" * 100_000: r"x{197}\.\.\. has 100,000 characters, more than any name or path",
}


@pytest.mark.parametrize(("name", "argument"), TEXTS)
@pytest.mark.parametrize("text", MEANT_BY_NOBODY, ids=["empty", "null", "half", "long"])
def test_text_that_cannot_be_meant(
    name: str, argument: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Empty text is a variable that was not set, and never the working directory."""
    monkeypatch.chdir(tmp_path)
    flaw = MEANT_BY_NOBODY[text]
    said = rf"^cannot use {argument}: {flaw}$|^{name}\(\) argument '{argument}' must be"
    with pytest.raises((TypeError, streamconv.UsageError), match=said):
        call(name, argument, text)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("argument", ["rename", "only", "skip"])
@pytest.mark.parametrize("text", [*MEANT_BY_NOBODY][1:], ids=["null", "half", "long"])
def test_a_list_with_text_that_cannot_be_meant(argument: str, text: str) -> None:
    with pytest.raises(
        streamconv.UsageError, match=rf"^cannot use {argument}: {MEANT_BY_NOBODY[text]}$"
    ):
        call("convert", argument, ["a=b", text])


async def wait(_: object) -> None:
    """Nobody awaits it."""


class Waiting:
    """An object that is called like a coroutine function."""

    async def __call__(self, _: object) -> None:
        """Nobody awaits it."""


@pytest.mark.parametrize("on_event", [wait, Waiting(), functools.partial(wait)])
@pytest.mark.parametrize("name", ["merge", "finish", "verify"])
def test_a_callback_that_nobody_awaits(name: str, on_event: Any) -> None:
    said = rf"^{name}\(\) argument 'on_event' must not be async"
    with pytest.raises(TypeError, match=said):
        call(name, "on_event", on_event)


@pytest.mark.parametrize("number", [10**5000, -(10**5000)], ids=["large", "small"])
@pytest.mark.parametrize(
    ("name", "argument"),
    [
        *(case for case in CASES if case[1] in ("sample", "jobs", "max_memory", "max_shard_size")),
        ("relay", "max_open_layers"),
    ],
)
def test_a_number_that_python_does_not_print(name: str, argument: str, number: int) -> None:
    with pytest.raises(streamconv.UsageError, match=rf"^cannot use {argument}: it is a number of"):
        call(name, argument, number)


def test_bytes_that_are_no_text() -> None:
    """They may be in a path, where Python shows them as halves of characters, and nowhere else."""
    path = os.fsdecode(b"\x80")
    assert checked_value("merge", "src", path, Location) == path
    for argument, text in (("src", f"hf://org/{path}"), ("to", path), ("rename", [f"a={path}"])):
        with pytest.raises(streamconv.UsageError, match=rf"^cannot use {argument}: .* has half of"):
            call("convert", argument, text)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (5, int | None),
        (None, int | None),
        ("4GB", int | str | None),
        (True, bool),
        (1, float | str),
        (0.5, float | str),
        (["a=b"], RunOptions.__annotations__["rename"]),
        (("a=b",), RunOptions.__annotations__["rename"]),
        ("a", RunOptions.__annotations__["only"]),
        ((), RunOptions.__annotations__["only"]),
    ],
)
def test_a_right_type(value: Any, annotation: Any) -> None:
    """It stays as it is."""
    assert checked_value("merge", "x", value, annotation) is value


class Word(str, Enum):  # noqa: UP042 - a StrEnum prints as its text
    """Texts that print as something else."""

    FUSED = "fused"
    RENAME = "a=b"


class Number(IntEnum):
    """Numbers that print as something else."""

    TWO = 2


@pytest.mark.parametrize(
    ("value", "plain", "annotation"),
    [
        (Word.FUSED, "fused", str | None),
        (Word.FUSED, "fused", Location),
        ((Word.RENAME, "c=d"), ["a=b", "c=d"], RunOptions.__annotations__["rename"]),
        (Number.TWO, 2, int | None),
        (Number.TWO, 2, int | str | None),
        (np.float64(0.5), 0.5, float | str),
        (np.str_("fused"), "fused", str),
    ],
)
def test_values_lose_their_own_class(value: Any, plain: Any, annotation: Any) -> None:
    """They would be printed, and written as names of files, as `Word.FUSED`."""
    made = checked_value("merge", "x", value, annotation)
    assert made == plain
    assert type(made) is type(plain)
    if isinstance(made, list):
        assert {type(each) for each in made} == {str}


def test_a_folder_is_called_as_the_text_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = {"model_type": "qwen3_moe", "num_experts": 3}
    write_checkpoint(tmp_path / "a=b", two_shards(qwen_tensors()), config)
    streamconv.convert(Word.RENAME, Word.FUSED, to=Word.FUSED, jobs=Number.TWO)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a=b", "fused"]


@pytest.mark.parametrize("path", [Path("a/b"), PurePosixPath("a/b")])
def test_paths_become_text(path: Any) -> None:
    assert checked_value("merge", "src", path, Location) == "a/b"


@pytest.mark.parametrize(
    ("value", "annotation", "said"),
    [
        (True, int | None, "merge() argument 'x' must be int or None, not bool"),
        (1, bool, "merge() argument 'x' must be bool, not int"),
        (2.0, int | str | None, "merge() argument 'x' must be int, str or None, not float"),
        (
            [5],
            RunOptions.__annotations__["rename"],
            "merge() argument 'x' must be a sequence of str or None, not a list with other items",
        ),
        (
            "a=b",
            RunOptions.__annotations__["rename"],
            "merge() argument 'x' must be a sequence of str or None, not str",
        ),
        (b"a", Location, "merge() argument 'x' must be str or os.PathLike, not bytes"),
        (None, Location, "merge() argument 'x' must be str or os.PathLike, not None"),
    ],
)
def test_the_sentence(value: Any, annotation: Any, said: str) -> None:
    with pytest.raises(TypeError) as caught:
        checked_value("merge", "x", value, annotation)
    assert str(caught.value) == said
