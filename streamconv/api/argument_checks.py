"""Checks of the arguments of public functions: their names, types and texts.

An error names the function and the argument. Without these checks it would come from deep inside.
"""

import inspect
import os
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, ForwardRef

from streamconv.errors import UsageError, quoted, wrong_type
from streamconv.system.typed_text import flaw_of

EMPTY_ALLOWED = frozenset({"hf_prefix", "dcp_prefix", "prefix"})
"""Options that may be empty text. Elsewhere, empty text is a shell variable that was not set."""

MAX_BITS = 1024
"""A number of more bits is beyond any float. Python prints no integers of over 4,300 digits."""

EMPTY_HINTS = {"src": "name a folder, hf://org/name or a URL", "dst": "name a folder"}


def check_names(function: str, named: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse keyword arguments that a function does not have. Raises TypeError, as Python does."""
    for name in named:
        if name not in known:
            raise TypeError(_unexpected(function, name, known))


def checked_value(function: str, name: str, value: Any, annotation: Any) -> Any:
    """Return the value of an argument; a path as text, and text as a plain `str`.

    Args:
        function: Name of the function.
        name: Name of the argument.
        value: The value that it is called with.
        annotation: The type of the argument. If the type is given as text, it cannot be looked up
            here. Then the type is only checked if it has to be callable, and a text as a path.

    Raises:
        TypeError: The value has another type.
        UsageError: The value is empty text, is or has text that nobody can have meant, or is a
            number beyond any size.
    """
    if annotation is inspect.Parameter.empty:  # the object of a method
        return value
    is_path = True
    if isinstance(annotation, str | ForwardRef):
        if name == "on_event" and value is not None:
            _check_callback(function, value)
    else:
        kinds = _kinds(annotation)
        if not any(_is_a(kind, value) for kind in kinds):
            raise wrong_type(function, name, _in_words(kinds), value)
        is_path = any(typing.get_origin(kind) is os.PathLike for kind in kinds)
        if isinstance(value, Sequence) and not isinstance(value, str):
            value = value if all(type(text) is str for text in value) else [*map(_plain, value)]
            for text in value:
                _check_text(name, text, is_path=False)
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    value = _plain(value)
    if isinstance(value, str) and not value and name not in EMPTY_ALLOWED:
        raise UsageError(f"cannot use {name}: it is empty", EMPTY_HINTS.get(name, ""))
    if isinstance(value, str):
        _check_text(name, value, is_path=is_path)
    _check_size(name, value)
    return value


def _plain(value: Any) -> Any:
    """Return text and numbers without the class of their own that they may have.

    A member of an `Enum` of texts prints as `Color.RED` where the text is meant.
    """
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, float):
        return float.__float__(value)
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return int.__index__(value) if is_number else value


def _check_callback(function: str, value: object) -> None:
    """Refuse what cannot be called, or would only return a coroutine. Raises TypeError."""
    if not callable(value):
        raise wrong_type(function, "on_event", "callable or None", value)
    if any(map(inspect.iscoroutinefunction, (value, type(value).__call__))):
        raise TypeError(
            f"{function}() argument 'on_event' must not be async: nobody awaits what it returns"
        )


def _check_text(name: str, text: str, *, is_path: bool) -> None:
    """Refuse text that nobody can have meant. Raises UsageError."""
    if flaw := flaw_of(text, is_path=is_path):
        raise UsageError(f"cannot use {name}: {quoted(text)} {flaw}")


def _check_size(name: str, value: object) -> None:
    """Refuse a number that Python would not print. Raises UsageError."""
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise UsageError(f"cannot use {name}: it is a number of over {MAX_BITS} bits")


def _kinds(annotation: Any) -> tuple[Any, ...]:
    """Return the types that an annotation allows."""
    is_union = (
        isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union
    )
    return typing.get_args(annotation) if is_union else (annotation,)


def _is_a(kind: Any, value: Any) -> bool:
    """Return True if a value has one of the types that options have."""
    origin = typing.get_origin(kind) or kind
    if origin is Sequence:
        is_list = isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)
        return is_list and all(isinstance(each, str) for each in value)
    if origin is os.PathLike:
        return isinstance(value, os.PathLike) and isinstance(os.fspath(value), str)
    if isinstance(value, bool):
        return origin is bool
    return isinstance(value, int | float if origin is float else origin)


def _in_words(kinds: Sequence[Any]) -> str:
    """Return types as a list of words: `int, str or None`."""
    words = [_word(kind) for kind in kinds]
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]


def _word(kind: Any) -> str:
    origin = typing.get_origin(kind) or kind
    special = {type(None): "None", Sequence: "a sequence of str", os.PathLike: "os.PathLike"}
    return special.get(origin) or str(origin.__name__)


def _unexpected(function: str, name: str, known: Sequence[str]) -> str:
    """Return the message for an unknown keyword argument, in the words of Python."""
    import difflib

    similar = difflib.get_close_matches(name, known, n=1)
    message = f"{function}() got an unexpected keyword argument {name!r}"
    return f"{message}; did you mean {similar[0]!r}?" if similar else message
