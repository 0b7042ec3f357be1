"""JSON is read strictly, and refused in words."""

import json
import os
import re
from pathlib import Path

import pytest
from headers import FILE, JSON
from hypothesis import given, settings
from hypothesis import strategies as st

import streamconv
from streamconv.errors import BadCheckpoint
from streamconv.formats import strict_json
from streamconv.formats.strict_json import (
    MAX_JSON_BYTES,
    MAX_SMALL_CHARS,
    Cursor,
    check_json_size,
    parse_json,
    parse_json_object,
)


@pytest.mark.parametrize(
    ("raw", "fact"),
    [
        (b'{"a": 1, "a": 2}', "the name a is there twice"),
        (b"[NaN]", "not JSON: NaN is not JSON"),
        (b'"\\ud800"', r"an escaped half of a character, \\ud8xx"),
        (b'"\xff"', "not UTF-8 at byte 1"),
        (b"[" * 100_000, "JSON nested too deeply"),
        (b"{} {}", "not JSON: Extra data"),
    ],
)
def test_what_two_readers_could_understand_differently(raw: bytes, fact: str) -> None:
    """Is refused, naming the file."""
    with pytest.raises(BadCheckpoint, match=f"^cannot read {FILE}: {fact}"):
        parse_json(raw, FILE)


def test_half_a_character_is_read_if_it_may_be_there() -> None:
    """Python has one for each byte of a path that is not UTF-8."""
    path = os.fsdecode(b"caf\xe9")
    raw = json.dumps({"path": path}).encode()
    assert parse_json_object(raw, FILE, half_characters=True) == {"path": path}
    with pytest.raises(BadCheckpoint, match="half of a character"):
        parse_json_object(raw, FILE)


def test_no_other_reader_of_json_is_in_the_package() -> None:
    """All that others may have written goes through this one, which has its limits.

    `json_edit` changes texts that it has read.
    """
    package = Path(streamconv.__file__).parent
    readers = re.compile(r"json\.loads?\(|JSONDecoder\(")
    found = {path.name for path in package.rglob("*.py") if readers.search(path.read_text())}
    assert found == {"strict_json.py", "json_edit.py"}


def test_an_object() -> None:
    assert parse_json_object(b'{"a": "\\ud83d\\ude00"}', FILE) == {"a": "\U0001f600"}
    with pytest.raises(BadCheckpoint, match=f"^cannot read {FILE}: not a JSON object"):
        parse_json_object(b"[]", FILE)


def test_a_file_too_large_to_be_read_whole() -> None:
    check_json_size(MAX_JSON_BYTES, FILE)
    with pytest.raises(BadCheckpoint, match=f"no such file has over {MAX_JSON_BYTES}"):
        check_json_size(MAX_JSON_BYTES + 1, FILE)


def test_a_small_value_is_not_read_further_than_its_limit() -> None:
    """A cursor gives the beginning of a value that is too long."""
    cursor = Cursor('{"a": {"b": "}"}, "c": ' + "[" + "1," * MAX_SMALL_CHARS)
    members = cursor.members()
    assert (next(members), cursor.small_value(), next(members)) == ("a", {"b": "}"}, "c")
    with pytest.raises(OverflowError, match=r"^\[(1,){39}1$"):
        cursor.small_value()


def test_json_of_too_many_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is refused by its marks alone: Python's reader makes 64 bytes of three of these."""
    raw = b"[" + b"[]," * 48 + b"[]]"
    monkeypatch.setattr(strict_json, "MAX_VALUES", 98)
    assert len(parse_json(raw, "index.json")) == 49
    monkeypatch.setattr(strict_json, "MAX_VALUES", 97)
    with pytest.raises(BadCheckpoint, match=r"index\.json: more than 97 values"):
        parse_json(raw, "index.json")


@settings(max_examples=150, deadline=None)
@given(raw=st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_end_in_words(raw: bytes) -> None:
    try:
        parse_json(raw, FILE)
    except BadCheckpoint as error:
        assert error.message.isprintable()
