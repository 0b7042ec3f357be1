"""A frozen dataclass of ours is one of the standard library, made sooner."""

import copy
import dataclasses
import functools
import inspect
import pickle
import subprocess
from collections.abc import Callable
from dataclasses import FrozenInstanceError, field
from pathlib import Path
from typing import Any

import pytest

from streamconv.records import dataclass

PACKAGE = Path(__file__).resolve().parents[2] / "streamconv"
Decorator = Callable[[type[Any]], type[Any]]
SETTINGS: list[dict[str, bool]] = [{}, {"slots": True}, {"eq": False}, {"slots": True, "eq": False}]


def ours(**settings: bool) -> Decorator:
    return dataclass(frozen=True, **settings)


def standard(**settings: bool) -> Decorator:
    """Make the oracle."""
    return dataclasses.dataclass(frozen=True, **settings)


def sample(decorator: Decorator) -> type[Any]:
    """Return a class with every kind of field."""

    class Sample:
        """A class of the test."""

        name: str
        sizes: tuple[int, ...]
        factor: float = 1.5
        rest: dict[str, int] = field(default_factory=dict)
        hidden: list[int] = field(default_factory=list, init=False, repr=False, compare=False)

        def double(self) -> float:
            return 2 * self.factor

    Sample.__qualname__ = "Sample"
    return decorator(Sample)


@dataclass(frozen=True, slots=True)
class Span:
    """A class that pickle finds."""

    begin: int
    end: int = 9


@pytest.mark.parametrize("settings", SETTINGS)
def test_it_is_the_dataclass_of_the_standard_library(settings: dict[str, bool]) -> None:
    """Signature, text, defaults, comparison and fields are the same."""
    own, oracle = sample(ours(**settings)), sample(standard(**settings))
    assert str(inspect.signature(own)) == str(inspect.signature(oracle))
    assert [f.name for f in dataclasses.fields(own)] == [f.name for f in dataclasses.fields(oracle)]
    assert own.__match_args__ == oracle.__match_args__
    assert hasattr(own, "__slots__") == hasattr(oracle, "__slots__")
    for arguments in (("a", (1, 2)), ("a", (1, 2), 2.0), ("b", (), 1.5, {"x": 1})):
        one, other = own(*arguments), oracle(*arguments)
        assert repr(one) == repr(other)
        assert one.double() == other.double()
        assert dataclasses.asdict(one) == dataclasses.asdict(other)
        assert (one == own(*arguments)) == (other == oracle(*arguments)) == settings.get("eq", True)
        assert one == one and one != other and one != own("c", (1,))
        assert dataclasses.replace(one, factor=7.0).factor == 7.0
    assert own("a", ()).rest is not own("a", ()).rest
    assert own("a", ()).hidden == []
    with pytest.raises(TypeError):
        own("a")
    with pytest.raises(TypeError):
        own("a", (), hidden=[1])


@pytest.mark.parametrize("settings", SETTINGS)
def test_it_cannot_be_changed(settings: dict[str, bool]) -> None:
    span = ours(**settings)(type("Span", (), {"__annotations__": {"begin": int}, "__doc__": "A."}))
    one = span(3)
    for name in ("begin", "other"):
        with pytest.raises(FrozenInstanceError):
            setattr(one, name, 4)
        with pytest.raises(FrozenInstanceError):
            delattr(one, name)
    assert one.begin == 3


def test_equal_ones_have_one_hash() -> None:
    assert {Span(1, 2): "x"}[Span(1, 2)] == "x"
    assert len({Span(1), Span(1, 9), Span(2)}) == 2
    empty = ours()(type("Empty", (), {"__annotations__": {}, "__doc__": "Without fields."}))
    assert empty() == empty() and hash(empty()) == hash(empty())
    single = ours(eq=False)(type("Single", (), {"__annotations__": {"a": int}, "__doc__": "A."}))
    assert len({single(1), single(1)}) == 2


def test_copies() -> None:
    """By copy and by pickle, which set the fields without `__init__`."""
    span = Span(4)
    for copied in (copy.copy(span), copy.deepcopy(span), pickle.loads(pickle.dumps(span))):
        assert copied == span and copied is not span


def test_own_methods_stay() -> None:
    """And a property may keep its value if there are no slots."""

    @dataclass(frozen=True)
    class Named:
        """A class of the test."""

        name: str

        @functools.cached_property
        def upper(self) -> str:
            return self.name.upper()

        def __repr__(self) -> str:
            return f"<{self.name}>"

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Named) and self.upper == other.upper

        def __hash__(self) -> int:
            return hash(self.upper)

    assert repr(Named("a")) == "<a>"
    assert Named("a") == Named("A") and len({Named("a"), Named("A")}) == 1
    named = Named("b")
    assert named.upper is named.upper == "B"


def test_a_text_of_itself_ends() -> None:
    rest: list[object] = []
    loop = ours()(type("Loop", (), {"__annotations__": {"rest": list}, "__doc__": "A loop."}))
    rest.append(loop(rest))
    assert repr(rest[0]).endswith("(rest=[...])")


def test_the_package_uses_it() -> None:
    """Modules whose dataclasses are all frozen take them from here."""
    found = subprocess.run(
        ["grep", "-rlE", "^from dataclasses import .*dataclass", "--include=*.py", PACKAGE],
        capture_output=True,
        text=True,
        check=True,
    )
    for path in found.stdout.split():
        text = Path(path).read_text("utf-8")
        assert text.count("@dataclass") > text.count("@dataclass(frozen=True"), path
