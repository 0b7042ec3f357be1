"""The reference of the JSON documents, from their schema."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from markdown_text import escaped, lines, table

import streamconv

SCHEMA = Path(streamconv.__file__).parent / "report/schema.json"
PRINTED_BY = {
    "inspection": "inspect",
    "plan": "merge, split, convert with --dry-run",
    "result": "merge, split, convert, finish",
    "verification": "verify",
    "loading": "check",
}
"""The commands that print a document, if they are not called like it."""


def page() -> str:
    """Return the page."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    documents = [ref["$ref"].rpartition("/")[2] for ref in schema["oneOf"]]
    parts = [name for name in schema["$defs"] if name not in documents]
    return lines(
        "# JSON",
        "",
        "With `--json`, a command prints one document on stdout, and everything else on stderr. "
        "`schema` is the version of the documents, and `kind` says which one it is.",
        "",
        escaped(schema["description"]),
        "The schema itself, for a validator, is "
        "[`streamconv/report/schema.json`](../../streamconv/report/schema.json).",
        "",
        table(
            ("document", "printed by"),
            (
                (f"[{name}](#{name})", f"`streamconv {PRINTED_BY.get(name, name)}`")
                for name in documents
            ),
        ),
        *(_definition(name, schema["$defs"][name]) for name in documents),
        "## Parts of documents",
        "",
        *(_definition(name, schema["$defs"][name], level=3) for name in parts),
    )


def _definition(name: str, definition: Mapping[str, Any], level: int = 2) -> Iterator[str]:
    """Yield the section of a document, or of a part of several documents."""
    yield from (f"{'#' * level} {name}", "")
    fields = definition["properties"]
    yield from table(("field", "type", "meaning"), _rows("", fields))


def _rows(path: str, fields: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield a row for each field, and for the fields of objects in it."""
    for name, field in fields.items():
        yield f"`{path}{name}`", _type(field), escaped(field.get("description", ""))
        inner = field.get("items", field)
        if "properties" in inner:
            many = "[]" if "items" in field else ""
            yield from _rows(f"{path}{name}{many}.", inner["properties"])


def _type(field: Mapping[str, Any]) -> str:
    """Return the type of a field in words."""
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name})"
    if "oneOf" in field:
        return " or ".join(_type(each) for each in field["oneOf"])
    if "const" in field:
        return f"`{json.dumps(field['const'])}`"
    if "enum" in field:
        return " or ".join(f"`{json.dumps(each)}`" for each in field["enum"])
    if "type" not in field:
        return "any"
    types = field["type"] if isinstance(field["type"], list) else [field["type"]]
    return " or ".join(_container(each, field) for each in types)


def _container(kind: str, field: Mapping[str, Any]) -> str:
    """Return an array or object with what is in it, if the schema says that."""
    if kind == "array" and "items" in field:
        return f"array of {_type(field['items'])}"
    if kind == "object" and isinstance(inner := field.get("additionalProperties"), dict):
        return f"object of {_type(inner)}"
    return kind
