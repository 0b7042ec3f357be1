"""How a casting is asked for and stored."""

import json
from typing import Any

import pytest

from streamconv.checkpoint.casting import AS_STORED, Casting, parse_casting
from streamconv.errors import BadCheckpoint, UsageError


@pytest.mark.parametrize("given", ["float32", "BF16", "fp8", ""])
def test_a_dtype_that_there_is_not(given: str) -> None:
    with pytest.raises(UsageError, match="bf16, fp16, fp32"):
        try:
            parse_casting(given, None, False)
        except UsageError as error:
            raise UsageError(f"{error.message} {error.hint}") from None
    with pytest.raises(UsageError, match="no such dtype"):
        parse_casting(None, given, False)


def test_cast_all_without_a_dtype_says_nothing() -> None:
    with pytest.raises(UsageError, match="--cast-all"):
        parse_casting(None, "bf16", True)


@pytest.mark.parametrize("names", [{"only": ["a.*"]}, {"skip": "int4"}])
def test_names_without_dequantizing_say_nothing(names: dict[str, Any]) -> None:
    option = "--only" if "only" in names else "--except"
    with pytest.raises(UsageError, match=f"{option}: it chooses"):
        parse_casting("bf16", None, False, **names)


# --- what is stored ----------------------------------------------------------------------------


CHOSEN = Casting(dequantize="BF16", only=("*.experts.*",), skip=("int4", "a.weight"))


@pytest.mark.parametrize(
    "casting", [AS_STORED, Casting("BF16"), Casting("F16", "F32", True), CHOSEN]
)
def test_a_casting_is_read_as_it_was_written(casting: Casting) -> None:
    fields = json.loads(json.dumps(casting.to_json()))
    assert Casting.from_json(fields, "file") == casting


def test_a_manifest_without_a_casting_has_none() -> None:
    """It is of an earlier release."""
    assert Casting.from_json(None, "file") == AS_STORED


@pytest.mark.parametrize(
    "fields",
    [
        {},
        [],
        "BF16",
        {"dtype": "F64", "dequantize": None, "all": False},
        {"dtype": None, "dequantize": ["BF16"], "all": False},
        {"dtype": None, "dequantize": None, "all": 0},
        {"dtype": None, "dequantize": None, "all": False, "only": "a"},
        {"dtype": None, "dequantize": None, "all": False, "except": [1]},
    ],
    ids=str,
)
def test_another_casting_is_refused(fields: Any) -> None:
    with pytest.raises(BadCheckpoint, match="file: its casting"):
        Casting.from_json(fields, "file")
