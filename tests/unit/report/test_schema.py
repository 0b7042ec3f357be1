"""What `--json` prints is what the schema in the package describes."""

import json
from importlib import resources
from pathlib import Path
from typing import Any

import checkpoints
import jsonschema
import pytest

import streamconv
from streamconv.report.catalog_report import families_fields, layouts_fields
from streamconv.report.checkpoint_json import inspection_fields
from streamconv.report.plan_json import plan_fields
from streamconv.report.result_json import result_fields


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    text = resources.files("streamconv.report").joinpath("schema.json").read_text()
    loaded: dict[str, Any] = json.loads(text)
    jsonschema.Draft202012Validator.check_schema(loaded)
    return loaded


def strictly(schema: dict[str, Any], kind: str) -> dict[str, Any]:
    """The schema of one document, with no room for fields that it does not list."""
    definitions = {
        name: {**definition, "additionalProperties": False}
        for name, definition in schema["$defs"].items()
    }
    return {**schema, "oneOf": [{"$ref": f"#/$defs/{kind}"}], "$defs": definitions}


@pytest.mark.parametrize("name", checkpoints.BUILDERS)
def test_documents_follow_the_schema(name: str, schema: dict[str, Any], tmp_path: Path) -> None:
    """Inspection, plan and result of every family, field by field."""
    folder = checkpoints.BUILDERS[name](tmp_path / "source")
    found = streamconv.inspect(folder)
    result = streamconv.merge(folder, tmp_path / "out", max_shard_size="60KB")
    documents = {
        "inspection": inspection_fields(found.checkpoint, found.detected),
        "plan": plan_fields(result.plan, None),
        "result": result_fields(result),
    }
    for kind, fields in documents.items():
        document = json.loads(json.dumps(fields))
        assert document["kind"] == kind
        jsonschema.validate(document, schema)
        jsonschema.validate(document, strictly(schema, kind))


def test_the_plan_says_what_is_renamed_and_left(tmp_path: Path) -> None:
    """Qwen3-Omni: names that lose `thinker.`, the talker that stays, files that are skipped."""
    folder = checkpoints.qwen3_omni_moe(tmp_path / "source")
    (folder / "original").mkdir()
    (folder / "original" / "model.safetensors").write_bytes(b"once more")
    (folder / "original" / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"legacy")
    (folder / "leftover.safetensors").write_bytes(b"not in the index")
    plan = streamconv.plan(folder)
    target = plan_fields(plan, None)["target"]
    assert target["asked"] == "mindspeed"
    assert target["renames"] == ["thinker.* -> *"]
    assert target["unchanged_stacks"] == ["talker.model.layers.*.mlp.experts"]
    left = {file["name"]: file["left_behind"] for file in target["left_behind"]}
    assert left == {
        "leftover.safetensors": "not in the index",
        "model.safetensors.index.json": "the index of the source's shards",
        "original/model.safetensors": "a second copy of the weights",
        "pytorch_model.bin": "the weights in a legacy format",
    }
    assert "original/config.json" in {file.name for file in plan.copied}


def test_the_tables_follow_the_schema(schema: dict[str, Any]) -> None:
    for fields in (families_fields(), layouts_fields()):
        jsonschema.validate(fields, strictly(schema, fields["kind"]))
        assert fields[fields["kind"]]
