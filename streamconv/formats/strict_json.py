"""JSON without the liberties of Python's reader: no name twice, no NaN, UTF-8 alone. Pure.

Whole, or an object's members one by one: a header has a million of them, which take five times
its bytes as Python's lists and dictionaries, and a hostile one far more.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from streamconv.errors import BadCheckpoint, quoted

MAX_JSON_BYTES = 256_000_000
"""No index, config or manifest is larger. An index of 140,000 tensors has 13.5 MB."""
LONGEST = 2**16
"""Characters of a value that is to be small."""
MOST_VALUES = 4_000_000
"""Of a whole text: an index or manifest of a million tensors has less. Each takes up to 64 bytes
and more, whatever its length."""
_FLAT = re.compile(rf"\{{[^{{}}]{{0,{LONGEST}}}\}}")
"""An object without another one in it."""
_SPACE = re.compile(r"[ \t\n\r]*")
_HALF = re.compile(r"\\u[dD]")
"""What an escaped half of a character begins with; so does a whole one beyond 16 bits."""


class Duplicate(ValueError):
    """A name that is there twice."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        times = Counter(name for name, _ in pairs)
        raise Duplicate(next(name for name in times if times[name] > 1))
    return found


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def parse_json(raw: bytes, what: str) -> Any:
    """The value that `raw` is. `what` names the file in errors. Raises BadCheckpoint."""
    if sum(raw.count(mark) for mark in (b",", b"[", b"{")) > MOST_VALUES:
        raise BadCheckpoint(f"{what}: more than {MOST_VALUES:,} values; no such file has so many")
    with as_bad_checkpoint(what):
        text = raw.decode("utf-8")
        parsed = _DECODER.decode(text)
        if _HALF.search(text):
            json.dumps(parsed, ensure_ascii=False).encode("utf-8")
    return parsed


def parse_json_object(raw: bytes, what: str) -> dict[str, Any]:
    """Return the JSON object in `raw`. Raises BadCheckpoint; `what` names the file in it."""
    parsed = parse_json(raw, what)
    if not isinstance(parsed, dict):
        raise BadCheckpoint(f"{what}: not a JSON object")
    return parsed


def check_json_size(nbytes: int, what: str) -> None:
    """Refuse a file that is too large to be read whole. Raises BadCheckpoint."""
    if nbytes > MAX_JSON_BYTES:
        raise BadCheckpoint(f"{what}: {nbytes} bytes, no such file has over {MAX_JSON_BYTES}")


@contextmanager
def as_bad_checkpoint(what: str) -> Iterator[None]:
    """Turns what is wrong with a text as JSON into BadCheckpoint; `what` names its file."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise BadCheckpoint(f"{what}: not UTF-8 at byte {error.start}") from None
    except UnicodeEncodeError:
        raise BadCheckpoint(f"{what}: an escaped half of a character, \\ud8xx") from None
    except Duplicate as error:
        raise BadCheckpoint(f"{what}: the name {quoted(str(error))} is there twice") from None
    except RecursionError:
        raise BadCheckpoint(f"{what}: JSON nested too deeply") from None
    except ValueError as error:
        raise BadCheckpoint(f"{what}: not JSON: {quoted(str(error))}") from None


class Cursor:
    """A place in a JSON text, moved on by reading. Raises ValueError where it is not JSON.

    Names and texts are checked to be whole characters; UnicodeEncodeError where they are not.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._halves = _HALF.search(text) is not None

    def members(self) -> Iterator[str]:
        """The names in the object that begins here, none twice. Whoever asks for the next one has
        read the value of the last."""
        seen = set()
        self._take("{")
        if self.next() == "}":
            self._at += 1
            return
        while True:
            if self.next() != '"':
                raise json.JSONDecodeError("Expecting a name in quotes", self._text, self._at)
            name = self.value()
            if name in seen:
                raise Duplicate(name)
            seen.add(name)
            self._take(":")
            yield name
            if self.next() != ",":
                self._take("}")
                return
            self._at += 1

    def next(self) -> str:
        """The character that comes next, space aside; none at the end."""
        char = self._text[self._at : self._at + 1]
        if char and char in " \t\n\r":
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            char = self._text[self._at : self._at + 1]
        return char

    def value(self) -> Any:
        """The value that comes next, whatever its size."""
        self.next()
        value, self._at = _DECODER.raw_decode(self._text, self._at)
        if self._halves and isinstance(value, str):
            value.encode("utf-8")
        return value

    def small_value(self) -> Any:
        """The value that comes next, of which no more is looked at than LONGEST characters.

        OverflowError, with how it begins, where these are not all of it.
        """
        self.next()
        flat = _FLAT.match(self._text, self._at)
        if flat is not None:
            try:
                return self._decoded(flat[0])
            except json.JSONDecodeError:  # a brace in a text, perhaps
                pass
        return self._decoded(self._text[self._at : self._at + LONGEST])

    def _decoded(self, part: str) -> Any:
        try:
            value, size = _DECODER.raw_decode(part)
        except json.JSONDecodeError as error:
            if len(part) == LONGEST:
                raise OverflowError(part[:80]) from None
            raise json.JSONDecodeError(error.msg, self._text, self._at + error.pos) from None
        self._at += size
        return value

    def end(self) -> None:
        """Nothing but space comes any more."""
        if self.next():
            raise json.JSONDecodeError("Extra data", self._text, self._at)

    def _take(self, char: str) -> None:
        if self.next() != char:
            raise json.JSONDecodeError(f"Expecting '{char}'", self._text, self._at)
        self._at += 1
