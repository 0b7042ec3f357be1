"""Checks of the fields of a user's rows.

    {"p": TEXTS, "auto_detect?": FLAG}     fields by name; one with ? may be left out
    {"*": TEXT}                            any further fields
    [RENAME]                               a list

A user's file is checked against these rules before its rows are read, so that the code that reads
rows needs no checks of its own: it only meets values like those of the shipped tables.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamconv.errors import UsageError, quoted

COMPARE = f"compare it with the tables in {Path(__file__).with_name('data')}"
"""The hint for a file of tables that is wrong."""
MAX_TEXT = 1000
"""Characters of a text. The longest one in the shipped tables has about 120."""
MAX_TEXTS = 1000
"""Texts in a list. The longest one in the shipped tables has about 20."""
MAX_SIZE = 10**9
"""No axis is longer."""


@dataclass(frozen=True, slots=True)
class Value:
    """The rule for a value that is neither a table nor a list of tables."""

    name: str
    """The rule in words, for an error."""
    is_right: Callable[[Any], bool]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT and value.isprintable()


def _are_texts(value: Any) -> bool:
    is_list = isinstance(value, list) and all(_is_text(text) and text for text in value)
    return is_list and 0 < len(value) == len({*value}) <= MAX_TEXTS


def _is_size(value: Any) -> bool:
    return 1 <= value <= MAX_SIZE if type(value) is int else _is_text(value) or _are_texts(value)


TEXT = Value(f"a text of 1 to {MAX_TEXT:,} printable characters", lambda v: _is_text(v) and v != "")
MAYBE_EMPTY = Value(f"a text of at most {MAX_TEXT:,} printable characters", _is_text)
TEXTS = Value("a list of different texts", _are_texts)
ONE_OR_MORE = Value(
    "a text, or a list of different texts", lambda v: (_is_text(v) and v != "") or _are_texts(v)
)
FLAG = Value("true or false", lambda value: isinstance(value, bool))
SIZE = Value(f"a number from 1 to {MAX_SIZE:,}, or paths in config.json", _is_size)

Kind = Value | Mapping[str, Any] | list[Any]
"""The rule for a value: of its own, of a table by its fields, or of a list by its items."""

NAMING: Kind = {"p": TEXTS, "d": TEXTS, "auto_detect?": FLAG}
LAYOUT: Kind = {"gate_up": TEXT, "down": TEXT, "used_by?": TEXT, "*": TEXT}
RENAME: Kind = {"hub_name": TEXT, "form_name": TEXT, "unless?": TEXTS}
GROUP: Kind = {
    "where": MAYBE_EMPTY,
    "sizes?": {"*": SIZE},
    "hub_name?": TEXT,
    "form_name?": TEXT,
    "parts?": [{"hub_name": TEXT, "form_name": TEXT}],
    "*": TEXTS,
}
FORM: Kind = {"layouts": {"*": ONE_OR_MORE}, "renames?": [RENAME], "groups?": [GROUP]}
FAMILY: Kind = {
    "model_types": TEXTS,
    "stacks": {"*": MAYBE_EMPTY},
    "naming?": TEXT,
    "merge?": TEXT,
    "hub?": FORM,
    "transformers?": FORM,
    "mindspeed?": FORM,
    "without?": {"*": TEXT},
    "aliases?": [RENAME],
    "refused?": TEXT,
    "transformers_model_type?": TEXT,
    "routers?": TEXTS,
    "fp32?": TEXTS,
    "single_experts?": TEXTS,
    "next_to_experts?": {"*": TEXTS},
}
WEIGHTS: Kind = {
    "part": TEXT,
    "suffix?": MAYBE_EMPTY,
    "gate_up?": {"*": MAYBE_EMPTY},
    "down?": {"*": MAYBE_EMPTY},
    "required?": FLAG,
    "blocks?": TEXTS,
    "packed?": FLAG,
    "shapes?": TEXTS,
}
ROWS: Mapping[str, Kind] = {
    "namings": NAMING,
    "weights": WEIGHTS,
    "layouts": LAYOUT,
    "families": FAMILY,
}
"""The kind of a row, by its table."""


def check_rows(table: str, rows: object, file: str) -> None:
    """Check the rows of a table of a user's file.

    Args:
        table: Name of the table.
        rows: Its value in the file.
        file: The path of the file, for the error.

    Raises:
        UsageError: A field is wrong, missing or unknown; the error names the first one.
    """
    for path, fact in _wrong_fields(rows, {"*": ROWS[table]}, table):
        raise UsageError(
            f"cannot read {quoted(path)} of {file}: {fact}",
            COMPARE,
        )


def _wrong_fields(value: Any, kind: Kind, path: str) -> Iterator[tuple[str, str]]:
    """Yield the path of each value that breaks its rule, and what is wrong with it."""
    if isinstance(kind, Value):
        if not kind.is_right(value):
            yield path, f"it has to be {kind.name}"
    elif isinstance(kind, list):
        if isinstance(value, list):
            for number, each in enumerate(value):
                yield from _wrong_fields(each, kind[0], f"{path}[{number}]")
        else:
            yield path, "it has to be a list of tables"
    elif isinstance(value, dict):
        yield from _wrong_fields_of_table(value, kind, path)
    else:
        yield path, "it has to be a table"


def _wrong_fields_of_table(
    table: Mapping[str, Any], kinds: Mapping[str, Any], path: str
) -> Iterator[tuple[str, str]]:
    for name in kinds:
        if not name.endswith(("?", "*")) and name not in table:
            yield f"{path}.{name}", "it is missing"
    for name, value in table.items():
        kind = kinds.get(name, kinds.get(f"{name}?", kinds.get("*")))
        if kind is None:
            yield f"{path}.{name}", "there is no such field"
        elif not _is_text(name):
            yield f"{path}.{name}", f"its name has to be {MAYBE_EMPTY.name}"
        else:
            yield from _wrong_fields(value, kind, f"{path}.{name}")
