"""The entry of one tensor is read, or refused with the rule that it breaks."""

import json
from typing import Any

import pytest

from streamconv.formats.safetensors import Entry
from streamconv.formats.safetensors_entry import InvalidEntry, read_entry
from streamconv.formats.strict_json import Cursor


def read(fields: Any) -> Entry:
    return read_entry("w", Cursor(json.dumps(fields)))


def test_an_entry() -> None:
    """Whatever the order of its fields."""
    fields = {"data_offsets": [8, 20], "dtype": "BF16", "shape": [2, 3]}
    assert read(fields) == Entry("w", "BF16", (2, 3), 8, 20)
    assert read({"dtype": "F32", "shape": [], "data_offsets": [0, 4]}).shape == ()
    assert read({"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}).end == 2


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"more": 1}, "not an object of dtype, shape and data_offsets alone"),
        ({"dtype": 3}, "dtype 3 is not one of the format's"),
        ({"dtype": "bf16"}, "dtype bf16 is not one of the format's"),
        ({"shape": [2, True]}, "is not a list of sizes"),
        ({"shape": [2, 3.0]}, "is not a list of sizes"),
        ({"shape": [1] * 65}, "is not a list of sizes"),
        ({"shape": [2, -3]}, "is not a list of sizes"),
        ({"data_offsets": [0, 6, 12]}, "are not a begin and an end"),
        ({"data_offsets": [12, 0]}, "are not a begin and an end"),
        ({"data_offsets": [0, 13]}, r"takes 96 bits, its data_offsets span 104"),
        ({"shape": [2, 3, 0]}, r"takes 0 bits, its data_offsets span 96"),
    ],
)
def test_a_broken_rule_is_named(changed: dict[str, Any], rule: str) -> None:
    fields = {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12], **changed}
    with pytest.raises(InvalidEntry, match=rule):
        read(fields)


@pytest.mark.parametrize("fields", [None, [], "text", {"dtype": "U8", "shape": [1]}])
def test_something_else_is_no_entry(fields: Any) -> None:
    with pytest.raises(InvalidEntry, match="not an object of dtype"):
        read(fields)


def test_an_entry_that_is_too_long_is_not_parsed() -> None:
    with pytest.raises(InvalidEntry, match="is more than a dtype, a shape and data_offsets take"):
        read({"dtype": "U8", "shape": [1] * 40_000, "data_offsets": [0, 1]})
