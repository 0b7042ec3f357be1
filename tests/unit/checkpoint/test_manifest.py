"""The manifest is JSON as the json module writes it, and each part of it reads back."""

import json
from dataclasses import replace
from typing import Any

import pytest

from streamconv.checkpoint.casting import Casting
from streamconv.checkpoint.file_records import (
    RecordedOther,
    RecordedShard,
)
from streamconv.checkpoint.layout_record import LayoutNames, Record
from streamconv.checkpoint.manifest import (
    Manifest,
    keeps_config,
    recorded_casting,
    recorded_files,
    recorded_layouts,
    recorded_names,
)
from streamconv.errors import BadCheckpoint

HEX = "0123456789abcdef" * 2
MANIFEST = Manifest(
    fingerprint="f" * 32,
    revision="c" * 40,
    record=Record("hub", None, {"model.layers.*.mlp.": LayoutNames("fused", "gate-up")}, "0:2"),
    reading={"renames": ["module.="]},
    casting=Casting("F32", "BF16", True),
    casts=[{"tensors": 'odd "name"\n\u2028', "from": "F8_E4M3", "to": "BF16", "count": 2}],
    config=[{"key": "text_config.dtype", "to": "float32"}, {"key": "quantization_config"}],
    shards={
        "a.safetensors": RecordedShard(10, (f"6 {HEX}", f"4 {HEX}"), "e" * 64),
        "b.safetensors": RecordedShard(0, ()),
    },
    others={
        "\\xff\n": RecordedOther(3, HEX),
        "\U0001f600.txt": RecordedOther(2, HEX, "e" * 64),
    },
)


@pytest.mark.parametrize(
    "manifest",
    [
        MANIFEST,
        replace(MANIFEST, shards={}),
        replace(MANIFEST, others={}, revision=None, reading={}),
    ],
)
def test_it_is_json_with_an_indent(manifest: Manifest) -> None:
    """As it has been stored since the first version, to the byte."""
    content = b"".join(manifest.encode())
    assert content == (json.dumps(manifest.to_json(), indent=2) + "\n").encode("ascii")


def test_its_fields_are_these() -> None:
    """Their names and order are stored; a revision, reading and SHA-256 only if there is one."""
    head = {
        "version": 1,
        "fingerprint": "f" * 32,
        "revision": "c" * 40,
        "record": {
            "version": 1,
            "form": None,
            "names": "hub",
            "stacks": {"model.layers.*.mlp.": {"layout": "fused", "naming": "gate-up"}},
            "layers": "0:2",
        },
        "reading": {"renames": ["module.="]},
        "casting": {"dtype": "F32", "dequantize": "BF16", "all": True},
        "casts": MANIFEST.casts,
        "config": MANIFEST.config,
        "digest": "xxh3-128",
    }
    shards = {
        "a.safetensors": {"size": 10, "sha256": "e" * 64, "pieces": [f"6 {HEX}", f"4 {HEX}"]},
        "b.safetensors": {"size": 0, "pieces": []},
    }
    files = {
        "\\xff\n": {"size": 3, "digest": HEX},
        "\U0001f600.txt": {"size": 2, "digest": HEX, "sha256": "e" * 64},
    }
    assert json.dumps(MANIFEST.to_json()) == json.dumps({**head, "shards": shards, "files": files})
    assert "revision" not in replace(MANIFEST, revision=None).to_json()


def test_each_part_reads_back() -> None:
    fields = json.loads(b"".join(MANIFEST.encode()))
    assert recorded_layouts(fields) == MANIFEST.record
    assert recorded_casting(fields) == MANIFEST.casting
    assert not keeps_config(fields)
    assert keeps_config(replace(MANIFEST, config=None).to_json())
    assert not keeps_config({})
    assert recorded_files(fields) == (MANIFEST.shards, MANIFEST.others)
    assert {*recorded_names(fields)} == {"streamconv.json", *MANIFEST.shards, *MANIFEST.others}


def test_runs_cover_a_file() -> None:
    assert list(MANIFEST.shards["a.safetensors"].runs()) == [(6, HEX), (4, HEX)]
    assert list(MANIFEST.others["\\xff\n"].runs()) == [(3, HEX)]


def changed(**fields: Any) -> dict[str, Any]:
    return {**MANIFEST.to_json(), **fields}


SHARD = MANIFEST.shards["a.safetensors"].to_json()
OTHER = MANIFEST.others["\\xff\n"].to_json()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        changed(digest="crc32"),
        *(changed(version=version) for version in (2, "1", None)),
        changed(shards=[]),
        changed(files="x"),
        *(
            changed(shards={"a": shard})
            for shard in (
                *([], None, {}, {**SHARD, "size": 11}, {**SHARD, "size": -1}),
                *({**SHARD, "size": 10.0}, {**SHARD, "size": True}, {**SHARD, "pieces": 7}),
                *({**SHARD, "pieces": [10]}, {**SHARD, "pieces": [f"10 {HEX} "]}),
                {**SHARD, "pieces": [f"10 {HEX[1:]}"]},
                *({**SHARD, "sha256": sha256} for sha256 in (5, "", "e" * 63, "E" * 64, ["e"])),
            )
        ),
        *(
            changed(files={"a": other})
            for other in (
                *([], {"size": 3}, {**OTHER, "digest": 5}, {**OTHER, "size": "3"}),
                {**OTHER, "sha256": "e" * 65},
            )
        ),
    ],
    ids=str,
)
def test_files_that_streamconv_did_not_write(fields: dict[str, Any]) -> None:
    """They are refused; what is right elsewhere can still be read."""
    with pytest.raises(BadCheckpoint, match=r"^streamconv.json: not a manifest"):
        recorded_files(fields)
    if fields:
        assert recorded_layouts(fields) == MANIFEST.record
        assert recorded_casting(fields) == MANIFEST.casting


@pytest.mark.parametrize("fields", [{}, [], None, "x", {"record": None}])
def test_a_manifest_without_a_record(fields: object) -> None:
    with pytest.raises(BadCheckpoint, match="from here"):
        recorded_layouts(fields, "from here")


def test_names_of_other_json() -> None:
    """A file of the user may have the name of a manifest: it lists nothing, not even itself."""
    assert list(recorded_names({})) == []
    assert list(recorded_names({"shards": ["a"], "files": 7})) == []
    assert {*recorded_names({"shards": {}})} == {"streamconv.json"}
