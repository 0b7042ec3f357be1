"""A mapping that cannot be changed is a value like others."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from streamconv.catalog.frozen_map import FrozenMap

CHANGES: dict[str, Callable[[Any], object]] = {
    "set": lambda made: made.__setitem__("a", 2),
    "delete": lambda made: made.__delitem__("a"),
    "or": lambda made: made.__ior__({"b": 2}),
    "clear": lambda made: made.clear(),
    "pop": lambda made: made.pop("a"),
    "popitem": lambda made: made.popitem(),
    "setdefault": lambda made: made.setdefault("b", 2),
    "update": lambda made: made.update(b=2),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=[*CHANGES])
def test_it_stays_as_it_is(change: Callable[[Any], object]) -> None:
    made = FrozenMap({"a": 1})
    with pytest.raises(TypeError, match=r"^cannot change a FrozenMap"):
        change(made)
    assert made == {"a": 1}


def test_copies() -> None:
    """They cannot be changed either; what is made of two is a dict of its own."""
    made = FrozenMap({"a": [1]})
    for same in (pickle.loads(pickle.dumps(made)), copy.copy(made), copy.deepcopy(made)):
        assert type(same) is FrozenMap
        assert same == made
    assert copy.deepcopy(made)["a"] is not made["a"]
    assert type(made | {"b": 2}) is dict


def test_it_prints_as_a_line() -> None:
    assert repr(FrozenMap(dict.fromkeys(range(10**4), 0))) == "<FrozenMap of 10,000 keys>"
