"""JSON as RFC 8259 has it, without the liberties of Python's reader.

    {"a": 1, "a": 2}     refused: two readers could take two values
    {"a": NaN}           refused: not JSON
    "\\ud800"              refused: half a character, which no UTF-8 can hold
    [[[[...              refused: nested too deeply

A text is parsed whole (`parse_json`) or one member at a time (`Cursor`). A header of safetensors
has a million members. As Python's lists and dictionaries these take five times the bytes of the
text, and those of a hostile header far more.
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
MAX_VALUES = 4_000_000
"""Values in a text that is parsed whole. An index or manifest of a million tensors has fewer.
Each takes 64 bytes or more as a Python object, however short it is."""
MAX_SMALL_CHARS = 2**16
"""Characters of a value that has to be small."""

_FLAT = re.compile(rf"\{{[^{{}}]{{0,{MAX_SMALL_CHARS}}}\}}")
"""An object that contains no other object."""
_SPACE = re.compile(r"[ \t\n\r]*")
_PLAIN_NAME = re.compile(r'"([^"\\\x00-\x1f]*)":')
"""A name without escapes and its colon. Matching it takes a third of the time of a decoder."""
_MINUS_ZERO = re.compile(r"[\[:,]\s*-0\s*[\],}]")
"""What the number -0 looks like in a list or an object. A text may contain this, too."""
_SURROGATE = re.compile(r"\\u[dD]")
"""How an escaped half of a character begins. The two halves of a whole one begin like this, too."""


class DuplicateName(ValueError):
    """A name that an object has twice."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        times = Counter(name for name, _ in pairs)
        raise DuplicateName(next(name for name in times if times[name] > 1))
    return found


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _no_minus_zero(text: str) -> int:
    if text == "-0":
        raise ValueError("-0 is a size to some readers only")
    return int(text)


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
_SIZES_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=_no_minus_zero
)
"""Refuses -0 as well. It calls Python for each number, which takes twice the time."""


def parse_json(raw: bytes, label: str, *, half_characters: bool = False) -> Any:
    """Return the value that `raw` encodes.

    Args:
        raw: The text.
        label: The name of the file, for the error.
        half_characters: True to accept them: Python has them in a path that is not UTF-8.

    Raises:
        BadCheckpoint: It is not JSON, or has too many values.
    """
    if sum(raw.count(mark) for mark in (b",", b"[", b"{")) > MAX_VALUES:
        raise BadCheckpoint(
            f"cannot read {label}: more than {MAX_VALUES:,} values; no such file has so many"
        )
    with as_bad_checkpoint(label):
        text = raw.decode("utf-8")
        parsed = _DECODER.decode(text)
        if not half_characters and _SURROGATE.search(text):
            json.dumps(parsed, ensure_ascii=False).encode("utf-8")
    return parsed


def parse_json_object(raw: bytes, label: str, *, half_characters: bool = False) -> dict[str, Any]:
    """Return the JSON object in `raw`; see `parse_json`. Raises BadCheckpoint."""
    parsed = parse_json(raw, label, half_characters=half_characters)
    if not isinstance(parsed, dict):
        raise BadCheckpoint(f"cannot read {label}: not a JSON object")
    return parsed


def check_json_size(nbytes: int, label: str) -> None:
    """Refuse a file that is too large to be read whole. Raises BadCheckpoint."""
    if nbytes > MAX_JSON_BYTES:
        raise BadCheckpoint(
            f"cannot read {label}: {nbytes} bytes, no such file has over {MAX_JSON_BYTES}"
        )


@contextmanager
def as_bad_checkpoint(label: str) -> Iterator[None]:
    """Turn the errors of reading a text as JSON into BadCheckpoint; `label` names the file in it.

    Nearly all of them are ValueErrors, so the order of the clauses below matters.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        raise BadCheckpoint(f"cannot read {label}: not UTF-8 at byte {error.start}") from None
    except UnicodeEncodeError:
        raise BadCheckpoint(
            f"cannot read {label}: an escaped half of a character, \\ud8xx"
        ) from None
    except DuplicateName as error:
        raise BadCheckpoint(
            f"cannot read {label}: the name {quoted(str(error))} is there twice"
        ) from None
    except RecursionError:
        raise BadCheckpoint(f"cannot read {label}: JSON nested too deeply") from None
    except ValueError as error:
        raise BadCheckpoint(f"cannot read {label}: not JSON: {quoted(str(error))}") from None


class Cursor:
    """A position in a JSON text that moves forward as values are read. All numbers are sizes.

    Every method raises ValueError if the text is not JSON there, and UnicodeEncodeError if a name
    or text has half a character.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._has_surrogates = _SURROGATE.search(text) is not None
        has_minus_zero = "-0" in text and _MINUS_ZERO.search(text)
        self._decoder = _SIZES_DECODER if has_minus_zero else _DECODER

    @property
    def position(self) -> int:
        """Index of the character that is read next."""
        return self._at

    def members(self) -> Iterator[str]:
        """Yield the names in the object that begins here.

        The caller reads the value of each name before it asks for the next one. Raises
        DuplicateName if a name comes again.
        """
        seen = set()
        self._take("{")
        if self.next() == "}":
            self._at += 1
            return
        while True:
            plain = self.match(_PLAIN_NAME)
            name = plain[1] if plain is not None else self._name()
            if name in seen:
                raise DuplicateName(name)
            seen.add(name)
            yield name
            if self.next() != ",":
                self._take("}")
                return
            self._at += 1

    def match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Read the text that a pattern matches here; read nothing if it matches none."""
        match = pattern.match(self._text, self._at)
        if match is not None:
            self._at = match.end()
        return match

    def next(self) -> str:
        """Skip white space and return the next character without reading it; empty at the end."""
        char = self._text[self._at : self._at + 1]
        if char and char in " \t\n\r":
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            char = self._text[self._at : self._at + 1]
        return char

    def value(self) -> Any:
        """Read the next value, whatever its size."""
        self.next()
        value, self._at = self._decoder.raw_decode(self._text, self._at)
        if self._has_surrogates and isinstance(value, str):
            value.encode("utf-8")
        return value

    def small_value(self) -> Any:
        """Read the next value, of at most MAX_SMALL_CHARS characters.

        Raises OverflowError, with the beginning of the value, if it is longer. No more of it is
        looked at.
        """
        self.next()
        flat = _FLAT.match(self._text, self._at)
        if flat is not None:
            try:
                return self._decode(flat[0])
            except json.JSONDecodeError:  # perhaps the brace was part of a text
                pass
        return self._decode(self._text[self._at : self._at + MAX_SMALL_CHARS])

    def end(self) -> None:
        """Check that nothing but white space follows."""
        if self.next():
            raise json.JSONDecodeError("Extra data", self._text, self._at)

    def _name(self) -> str:
        """Read a name and the colon after it."""
        if self.next() != '"':
            raise json.JSONDecodeError("Expecting a name in quotes", self._text, self._at)
        name = str(self.value())
        self._take(":")
        return name

    def _decode(self, part: str) -> Any:
        """Read the value at the beginning of `part`, which begins at this position."""
        try:
            value, size = self._decoder.raw_decode(part)
        except json.JSONDecodeError as error:
            if len(part) == MAX_SMALL_CHARS:
                raise OverflowError(part[:80]) from None
            raise json.JSONDecodeError(error.msg, self._text, self._at + error.pos) from None
        self._at += size
        return value

    def _take(self, char: str) -> None:
        if self.next() != char:
            raise json.JSONDecodeError(f"Expecting '{char}'", self._text, self._at)
        self._at += 1
