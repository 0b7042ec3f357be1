"""Whatever a manifest contains: rows of pieces are returned, and nothing else."""

import json
from pathlib import Path

import pytest

from streamconv.sinks.recorded_pieces import recorded_pieces
from streamconv.system.file_ops import Files

ROWS = ["8 0123"]


@pytest.mark.parametrize(
    "manifest", [[], {}, {"shards": 7}, {"shards": {"b": None}}, {"shards": {"b": {"pieces": 1}}}]
)
def test_a_malformed_manifest_has_no_rows(tmp_path: Path, manifest: object) -> None:
    (tmp_path / "streamconv.json").write_text(json.dumps(manifest))
    assert recorded_pieces(tmp_path, ["b"], Files()) == {}


def test_rows_of_a_good_shard_next_to_a_malformed_one(tmp_path: Path) -> None:
    shards = {"a": {"pieces": ROWS}, "b": {"pieces": "8 0123"}, "c": []}
    (tmp_path / "streamconv.json").write_text(json.dumps({"shards": shards}))
    assert recorded_pieces(tmp_path, ["a", "b", "c"], Files()) == {"a": ROWS}


@pytest.mark.parametrize("content", [b"", b"\x80\x02}.", b"{}"])
def test_damaged_metadata_have_no_rows(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "release").mkdir()
    (tmp_path / "release" / ".metadata").write_bytes(content)
    assert recorded_pieces(tmp_path, ["release/__0_0.distcp"], Files()) == {}
