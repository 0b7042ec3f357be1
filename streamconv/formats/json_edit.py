r"""Changes values in the text of a JSON object, and leaves all other characters as they are.

    {"dtype": "bfloat16",   "a" : 1.50}      set dtype to "float32"
    {"dtype": "float32",   "a" : 1.50}

    {"a": 1,\n  "b": 2,\n  "c": 3}           remove b
    {"a": 1,\n  "c": 3}

    {"a": 1,\n  "b": 2}                      set c to 3
    {"a": 1,\n  "b": 2,\n  "c": 3}

A member that is removed takes its comma along, and the white space up to the next member.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()

Path = tuple[str, ...]
"""The names on the way from the outermost object to a value."""


class Removed(Enum):
    """The value of a member that is removed."""

    REMOVED = "removed"


REMOVED: Final = Removed.REMOVED


@dataclass(frozen=True, slots=True)
class Edit:
    """A member of an object, at any depth, and its new value. One of the outermost may be new."""

    path: Path
    new: Any
    """A JSON value, or REMOVED. A list that begins like the old one keeps the text of its items."""

    def old(self, config: Any) -> Any:
        """Return the value in an object that has the member. Raises KeyError if it has not."""
        for name in self.path:
            config = config[name]
        return config

    def adds(self, config: Any) -> bool:
        """Return True if an object has no such member yet."""
        return len(self.path) == 1 and self.path[0] not in config


def edit_json(text: str, edits: Sequence[Edit]) -> str:
    """Return a JSON object with some members changed.

    Args:
        text: A valid JSON object in which no object has a name twice.
        edits: The changes. No path begins with another one.

    Raises:
        KeyError: There is no member at a path.
    """
    for edit in edits:
        begin, end, new = _change(text, edit)
        text = text[:begin] + new + text[end:]
    return text


def edit_value(value: Any, edits: Sequence[Edit]) -> Any:
    """Return what the text of `edit_json` encodes, if its argument encodes `value`."""
    for edit in edits:
        if edit.new is not REMOVED and edit.adds(value):
            value = {**value, edit.path[0]: edit.new}
        else:
            value = _edited(value, edit.path, edit.new)
    return value


def _edited(value: Any, path: Path, new: Any) -> Any:
    name, *rest = path
    if rest:
        return {**value, name: _edited(value[name], tuple(rest), new)}
    if name not in value:
        raise KeyError(name)
    if new is REMOVED:
        return {key: each for key, each in value.items() if key != name}
    return {**value, name: new}


@dataclass(frozen=True, slots=True)
class _Member:
    """Positions in the text of a member of an object, or an item of a list."""

    name: str | None
    begin: int
    """The first character of the name; in a list, of the value."""
    value: int
    """The first character of the value."""
    end: int
    """The position after the last character of the value."""


def _change(text: str, edit: Edit) -> tuple[int, int, str]:
    """Return begin and end of the characters that an edit replaces, and what it puts there."""
    begin = _skip(text, 0)
    if len(edit.path) == 1 and edit.new is not REMOVED:
        members = list(_members(text, begin))
        if all(member.name != edit.path[0] for member in members):
            return _new_member(text, begin, members, edit)
    for name in edit.path[:-1]:
        begin = _find(text, begin, name)[1].value
    before, member, after = _find(text, begin, edit.path[-1])
    if edit.new is not REMOVED:
        return _new_value(text, member, edit.new)
    if after is not None:
        return member.begin, after.begin, ""
    if before is not None:
        return before.end, member.end, ""
    return begin + 1, _skip(text, member.end), ""


def _new_member(
    text: str, begin: int, members: Sequence[_Member], edit: Edit
) -> tuple[int, int, str]:
    """Return the change that adds a member after the last one.

    It is set off by the same white space as the first member.
    """
    space = text[begin + 1 : members[0].begin] if members else ""
    key, value = json.dumps(edit.path[0]), _indented(edit.new, space)
    at = members[-1].end if members else begin + 1
    comma = f",{space or ' '}" if members else ""
    return at, at, f"{comma}{key}: {value}"


def _indented(value: Any, space: str) -> str:
    """Return the text of a value: on several lines if its member begins on a new line.

    Args:
        value: The value.
        space: The white space before its member.
    """
    if "\n" not in space:
        return json.dumps(value)
    indent = space.rpartition("\n")[2]
    return json.dumps(value, indent=indent or 2).replace("\n", f"\n{indent}")


def _new_value(text: str, member: _Member, new: Any) -> tuple[int, int, str]:
    old = json.loads(text[member.value : member.end])
    if isinstance(old, list) and isinstance(new, list) and new and old[: len(new)] == new:
        items = list(_members(text, member.value))
        return items[len(new) - 1].end, items[-1].end, ""
    if isinstance(new, dict):
        before = text[: member.begin]
        space = before[len(before.rstrip()) :]
        return member.value, member.end, _indented(new, space)
    return member.value, member.end, json.dumps(new)


def _find(text: str, begin: int, name: str) -> tuple[_Member | None, _Member, _Member | None]:
    """Return the member called `name` of the object at `begin`, with its neighbors.

    Raises KeyError if there is none.
    """
    members = list(_members(text, begin)) if text[begin : begin + 1] == "{" else []
    for number, member in enumerate(members):
        if member.name == name:
            before = members[number - 1] if number else None
            return before, member, next(iter(members[number + 1 :]), None)
    raise KeyError(name)


def _members(text: str, begin: int) -> Iterator[_Member]:
    """Yield the members of the object, or the items of the list, at `begin`."""
    in_object = text[begin] == "{"
    position = _skip(text, begin + 1)
    while text[position] not in "}]":
        start, name = position, None
        if in_object:
            name, position = _DECODER.raw_decode(text, position)
            position = _skip(text, _skip(text, position) + 1)
        _, end = _DECODER.raw_decode(text, position)
        yield _Member(name, start, position, end)
        position = _skip(text, end)
        if text[position] == ",":
            position = _skip(text, position + 1)


def _skip(text: str, position: int) -> int:
    """Return the position of the next character that is no white space."""
    match = _SPACE.match(text, position)
    return match.end() if match else position
