"""The public functions explain themselves, and refuse options that they do not have."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import streamconv
from streamconv.api import option_docs
from streamconv.api.run_options import RunOptions
from streamconv.options import LazyOptions, Options, Reading

FUNCTIONS = {
    name: function
    for name in streamconv.__all__
    if inspect.isfunction(function := getattr(streamconv, name))
}
TAKES = {
    **dict.fromkeys(("inspect", "verify"), Reading),
    **dict.fromkeys(("open", "load"), LazyOptions),
    "plan": Options,
    **dict.fromkeys(("merge", "split", "convert"), RunOptions),
}


def arguments(name: str) -> set[str]:
    """Return every argument that a public function takes."""
    parameters = inspect.signature(FUNCTIONS[name]).parameters.values()
    own = {p.name for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD}
    return own | set(TAKES[name].__annotations__ if name in TAKES else ())


def test_the_functions() -> None:
    assert {*TAKES, "check", "finish", "relay"} == {*FUNCTIONS}


@pytest.mark.parametrize("name", streamconv.__all__)
def test_every_public_name_has_a_docstring(name: str) -> None:
    """Its own, not that of the class it is derived from."""
    thing = getattr(streamconv, name)
    assert thing.__doc__, name


@pytest.mark.parametrize("name", FUNCTIONS)
def test_help_lists_every_argument(name: str) -> None:
    """Those of the signature, and the options that are only in a TypedDict."""
    doc = inspect.getdoc(FUNCTIONS[name]) or ""
    assert "{" not in doc
    _, args, rest = doc.partition("\nArgs:\n")
    args, returns, rest = rest.partition("\nReturns:\n")
    assert returns
    assert "\nRaises:\n" in rest
    listed = {line.split(":")[0].strip() for line in args.splitlines() if line[4:5].strip()}
    assert listed == arguments(name)
    assert all(len(line) <= 100 for line in (FUNCTIONS[name].__doc__ or "").splitlines())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_unknown_option_is_a_type_error(name: str, tmp_path: Path) -> None:
    """It names the function and the option; nothing is read or written."""
    call: Callable[..., Any] = FUNCTIONS[name]
    places = [tmp_path / "src", tmp_path / "dst"][: 1 + ("dst" in arguments(name) - {"src"})]
    fact = rf"^{name}\(\) got an unexpected keyword argument 'nonsense'$"
    with pytest.raises(TypeError, match=fact):
        call(*places, nonsense=1)


@pytest.mark.parametrize(
    ("name", "wrong", "right"),
    [
        ("merge", "max_mem", "max_memory"),
        ("merge", "overwrit", "overwrite"),
        ("split", "max_shardsize", "max_shard_size"),
        ("convert", "too", "to"),
        ("plan", "layer", "layers"),
        ("inspect", "presets", "preset"),
        ("verify", "samples", "sample"),
        ("finish", "verfiy", "verify"),
        ("check", "source", "src"),
    ],
)
def test_the_most_similar_option_is_named(name: str, wrong: str, right: str) -> None:
    with pytest.raises(TypeError) as caught:
        FUNCTIONS[name]("src", **{wrong: 1})
    said = f"{name}() got an unexpected keyword argument '{wrong}'; did you mean '{right}'?"
    assert str(caught.value) == said


def test_options_of_a_type_have_the_meanings_of_help() -> None:
    """Each option of each type, once, in a sentence."""
    for options in (Reading, LazyOptions, Options, RunOptions):
        meanings = dict(option_docs.meanings(options))
        assert meanings.keys() == options.__annotations__.keys()
        assert all(text.endswith(".") for text in meanings.values())


def test_texts_that_functions_share() -> None:
    """Three functions that write have the same options and errors, word by word."""
    merge, split, convert = (
        inspect.getdoc(FUNCTIONS[n]) or "" for n in ("merge", "split", "convert")
    )
    for begin in ("source_layout: ", "Raises:\n"):
        tails = {doc[doc.index(begin) :] for doc in (merge, split, convert)}
        assert len(tails) == 1, begin
