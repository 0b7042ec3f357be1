"""Errors of loading say what to do, also where torch shows only notes."""

import pytest

from streamconv.errors import BadCheckpoint
from streamconv.lazy.load_errors import MAX_SHOWN, missing_keys_error, shape_error, show_hint


def test_a_hint_becomes_a_note_once() -> None:
    error = BadCheckpoint("cannot load", "do this")
    show_hint(error)
    show_hint(error)
    assert error.__notes__ == ["do this"]
    plain = BadCheckpoint("cannot load")
    show_hint(plain)
    assert not hasattr(plain, "__notes__")


def test_shapes_that_differ() -> None:
    error = shape_error("w", (2, 3), (3, 2))
    assert error.message == (
        "cannot load w: its shape is [2, 3] in the checkpoint, but [3, 2] in the state dict"
    )
    assert error.__notes__ == ["name the layout of the state dict with `to`"]


@pytest.mark.parametrize(
    ("missing", "prefix", "hint"),
    [
        (["model.a.w", "model.a.b", "x"], "", "prefix='model.'"),
        (["a.w", "b"], "model.", "prefix=''"),
        (["model.a.w"], "model.", "name the layout of the state dict with `to`"),
        (["optimizer"], "", "leave such keys with partial=True"),
    ],
)
def test_another_prefix_may_help(missing: list[str], prefix: str, hint: str) -> None:
    """The one that most keys would be found with."""
    error = missing_keys_error("src", missing, ["a.w", "a.b"], prefix)
    assert hint in error.hint


def test_many_keys_are_counted() -> None:
    names = [f"w{number}" for number in range(MAX_SHOWN + 3)]
    message = missing_keys_error("src", names, [], "").message
    assert message.startswith(f"cannot load {len(names)} keys of the state dict: src has no tensor")
    assert message.endswith(f"w{MAX_SHOWN - 1} and 3 more")
    assert missing_keys_error("src", ["w"], [], "").message.startswith("cannot load 1 key of")
