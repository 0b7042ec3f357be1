"""Experts whose names are not those of the family: no form is claimed for them, none is given."""

import json
from pathlib import Path
from typing import Any

import pytest
import reference
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

import streamconv
from streamconv.cli import cli
from streamconv.errors import PlanRefused

E, INTER, HIDDEN = 3, 4, 6
VL = {"model_type": "qwen3_vl_moe", "text_config": {"num_experts": E}}
AS_PUBLISHED = "model.language_model."


def made(prefix: str) -> reference.Tensors:
    draw = torch.Generator().manual_seed(3)
    mlp = f"{prefix}layers.0.mlp."
    shapes: dict[str, tuple[int, ...]] = {
        f"{prefix}embed_tokens.weight": (5, HIDDEN),
        f"{mlp}gate.weight": (E, HIDDEN),
    }
    for expert in range(E):
        shapes[f"{mlp}experts.{expert}.gate_proj.weight"] = (INTER, HIDDEN)
        shapes[f"{mlp}experts.{expert}.up_proj.weight"] = (INTER, HIDDEN)
        shapes[f"{mlp}experts.{expert}.down_proj.weight"] = (HIDDEN, INTER)
    return {
        name: torch.randint(-(2**15), 2**15, shape, dtype=torch.int16, generator=draw).view(
            torch.bfloat16
        )
        for name, shape in shapes.items()
    }


def save(folder: Path, tensors: reference.Tensors, config: dict[str, Any]) -> Path:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Qwen3-VL as a trainer saved it: per expert, and without a part of its names."""
    return save(tmp_path / "in", made("model."), VL)


def test_no_form_is_claimed(foreign: Path) -> None:
    found = streamconv.inspect(foreign).detected
    assert found.form is None
    assert found.foreign == ("model.layers.*.mlp.",)


@pytest.mark.parametrize("form", ["hub", "transformers"])
def test_no_form_is_given(foreign: Path, tmp_path: Path, form: str) -> None:
    with pytest.raises(PlanRefused) as caught:
        streamconv.convert(foreign, tmp_path / "out", to=form)
    assert "model.layers.*.mlp.experts" in caught.value.message
    assert "model.language_model.layers.*.mlp.experts" in caught.value.message
    assert "--rename" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_with_the_names_of_the_family_it_is_given(foreign: Path, tmp_path: Path) -> None:
    """The hint followed: what Qwen has published, experts turned and below its names."""
    streamconv.convert(
        foreign, tmp_path / "out", to="hub", rename=["model.*=model.language_model.*"]
    )
    expected = reference.to_layout(made(AS_PUBLISHED), "fused-transposed")
    assert reference.same_bytes(expected, reference.read(tmp_path / "out")) == []


def test_passed_through_all_stays(foreign: Path, tmp_path: Path) -> None:
    streamconv.convert(foreign, tmp_path / "out", to="hub", pass_through=True)
    assert reference.same_bytes(made("model."), reference.read(tmp_path / "out")) == []
    assert streamconv.inspect(tmp_path / "out").detected.form is None


def test_merge_goes_by_layout(foreign: Path, tmp_path: Path) -> None:
    """In the layout of the family's form, under the names that are here, which the plan tells."""
    command = ["merge", str(foreign), str(tmp_path / "out"), "--dry-run"]
    shown = " ".join(CliRunner().invoke(cli, command).output.split())
    assert "fused (model.layers.*.mlp.experts is not a stack of qwen3_vl_moe)" in shown
    streamconv.merge(foreign, tmp_path / "out", verify=True)
    expected = reference.to_layout(made("model."), "fused")
    assert reference.same_bytes(expected, reference.read(tmp_path / "out")) == []
    assert streamconv.inspect(tmp_path / "out").detected.form is None
    streamconv.split(tmp_path / "out", tmp_path / "back")
    assert reference.same_bytes(made("model."), reference.read(tmp_path / "back")) == []


def test_merging_gives_the_layout_of_mindspeed(tmp_path: Path) -> None:
    config = {"model_type": "internvl_chat", "llm_config": {"num_experts": E}}
    source = save(tmp_path / "in", made("model."), config)
    streamconv.merge(source, tmp_path / "out")
    expected = reference.to_layout(made("model."), "fused-flat")
    assert reference.same_bytes(expected, reference.read(tmp_path / "out")) == []
