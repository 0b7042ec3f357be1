"""The version of the JSON documents, whose fields `schema.json` describes."""

from collections.abc import Mapping
from typing import Any

SCHEMA_VERSION = 2
"""Grows if a field changes its meaning or is removed; new fields do not change it."""


def document(kind: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document of a kind that the schema defines."""
    return {"schema": SCHEMA_VERSION, "kind": kind, **fields}
