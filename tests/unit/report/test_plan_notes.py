"""What a plan says apart from its numbers: target, names, groups, and what stays as it is."""

import dataclasses
from pathlib import Path

import checkpoints
import pytest
from folders import qwen_tensors, write_checkpoint
from header_models import experts, planned

import streamconv
from streamconv.planning.plan import Plan
from streamconv.report.plan_notes import (
    config_edits,
    config_line,
    format_line,
    notes_of,
    passed_through,
    regrouped,
    renamed,
    renames,
    target_line,
)


@pytest.fixture(scope="module")
def omni(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Qwen3-Omni to MindSpeed-MM: names lose `thinker.`, and the talker stays as it is."""
    return streamconv.plan(checkpoints.qwen3_omni_moe(tmp_path_factory.mktemp("omni") / "hub"))


@pytest.fixture
def qwen(tmp_path: Path) -> Path:
    config = {"model_type": "qwen3_moe", "num_experts": 3, "dtype": "bfloat16"}
    return write_checkpoint(tmp_path / "src", {"model.safetensors": qwen_tensors()}, config)


def test_the_target_and_its_reason(omni: Plan, qwen: Path) -> None:
    assert target_line(omni.target) == "mindspeed (what merging makes of qwen3_omni_moe)"
    asked = streamconv.plan(qwen, to="fused").target
    assert target_line(asked).startswith("fused, which is the form transformers (")


def test_the_format(omni: Plan, qwen: Path) -> None:
    assert format_line(omni) == "safetensors"
    dcp = streamconv.plan(qwen, format="dcp", dcp_prefix="net.")
    assert format_line(dcp).startswith("dcp, ")
    assert "net." in format_line(dcp)


def test_names_that_change(omni: Plan, qwen: Path) -> None:
    """Each tensor that is copied under another name, and the rule for all of them."""
    assert renames(omni) == ["thinker.* -> *"]
    pairs = dict(renamed(omni))
    assert pairs["thinker.model.norm.weight"] == "model.norm.weight"
    assert not any(name.startswith("talker.") for name in pairs)
    assert not any(".experts." in name for name in pairs)
    kept = streamconv.plan(qwen)
    assert (renames(kept), list(renamed(kept))) == ([], [])


def test_stacks_of_experts_are_no_groups(qwen: Path) -> None:
    """Groups are tested with the detection of them."""
    assert list(regrouped(streamconv.plan(qwen))) == []


def test_stacks_that_stay(omni: Plan, qwen: Path) -> None:
    assert passed_through(streamconv.plan(qwen)) == {}
    target = dataclasses.replace(omni.target, kept={"talker.layers.*.mlp.experts": "it is odd"})
    kept = dataclasses.replace(omni, target=target)
    assert passed_through(kept) == {"talker.layers.*.mlp.experts": "it is odd"}


def test_what_config_json_no_longer_says(qwen: Path) -> None:
    """Is changed, or noted if it is to be kept."""
    cast = streamconv.plan(qwen, dtype="fp16")
    assert (list(notes_of(cast)), config_line(cast)) == (
        [],
        "dtype is float16 instead of bfloat16",
    )
    assert config_edits(cast) == [
        {"key": "dtype", "removed": False, "from": "bfloat16", "to": "float16"}
    ]
    kept = streamconv.plan(qwen, dtype="fp16", keep_config=True)
    assert (config_line(kept), config_edits(kept)) == ("", [])
    (note,) = notes_of(kept)
    assert note.endswith("without this change: dtype is float16 instead of bfloat16")


def test_only_renames_that_rename_something_are_listed(omni: Plan) -> None:
    """The form has rows for towers that this checkpoint does not have."""
    family = omni.source.family
    assert family is not None
    form = family.forms["transformers"]
    assert len(form.renames) > 1
    target = dataclasses.replace(omni.target, names=form)
    text = {n: info for n, info in omni.source.hub_names.items() if n.startswith("thinker.model.")}
    source = dataclasses.replace(omni.source, hub_names=text)
    listed = renames(dataclasses.replace(omni, source=source, target=target))
    assert listed == ["thinker.model.* -> thinker.model.language_model.*"]


def test_layers_with_different_numbers_of_experts() -> None:
    first, second = "model.layers.0.mlp.", "model.layers.1.mlp."
    tensors = experts(first, 8, 3, 5) | experts(second, 6, 3, 5)
    tensors |= {f"{first}gate.weight": ("F32", (8, 5)), f"{second}gate.weight": ("F32", (6, 5))}
    (note,) = notes_of(planned(tensors))
    assert "model.layers.*.mlp.experts have 6 to 8 experts" in note
