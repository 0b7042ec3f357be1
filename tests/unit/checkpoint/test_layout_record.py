"""A record of layouts comes back as it was written, and nothing else is taken for one."""

import json
from typing import Any

import pytest

from streamconv.catalog.catalog import default_catalog
from streamconv.catalog.layouts import NamedLayout
from streamconv.checkpoint.layout_record import (
    METADATA_KEY,
    LayoutNames,
    Record,
    read_record,
    record_in_metadata,
)
from streamconv.errors import BadCheckpoint

CATALOG = default_catalog()
RECORD = Record(
    "hub",
    None,
    {
        "model.layers.*.mlp.": LayoutNames.of(
            NamedLayout(CATALOG.layouts["fused"], CATALOG.default_naming)
        ),
        "talker.layers.*.mlp.": LayoutNames("a layout of nobody", "qwen"),
    },
    "0:2",
)


def test_it_comes_back() -> None:
    """With layouts that no catalog has: they are looked up later."""
    fields = json.loads(json.dumps(RECORD.to_json()))
    assert fields["stacks"]["model.layers.*.mlp."] == {"layout": "fused", "naming": "qwen"}
    assert read_record(fields, "file") == RECORD
    assert record_in_metadata({METADATA_KEY: json.dumps(fields)}, "file") == RECORD
    assert record_in_metadata({"format": "pt"}, "file") is None


def test_the_layers_are_numbers() -> None:
    assert RECORD.kept == range(2)
    assert Record("hub", None, {}).kept is None


@pytest.mark.parametrize(
    "change",
    [
        {"stacks": []},
        {"stacks": {"a": {"layout": "fused"}}},
        {"stacks": {"a": {"layout": None, "naming": "qwen"}}},
        {"stacks": {"a": {"layout": ["fused"], "naming": "qwen"}}},
        {"names": 3},
        {"names": None},
        {"form": []},
        {"layers": "0:2:3"},
        {"layers": 2},
    ],
    ids=str,
)
def test_another_value_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadCheckpoint, match="file: its record of layouts is not one"):
        read_record({**RECORD.to_json(), **change}, "file")


def test_another_version_is_refused() -> None:
    with pytest.raises(BadCheckpoint, match="version 2, this release reads 1") as caught:
        read_record({**RECORD.to_json(), "version": 2}, "file")
    assert "newer" in caught.value.hint
