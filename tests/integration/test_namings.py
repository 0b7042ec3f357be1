"""The names of the projections are those of the target, whatever the source calls them."""

import json
import warnings
from pathlib import Path

import pytest
import reference
import torch
import torch.distributed.checkpoint as dcp
from folders import forget
from safetensors.torch import save_file

import streamconv

E, N, H = 3, 4, 6
QWEN, MIXTRAL = ("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2")
Naming = tuple[str, str, str]
MLP = "model.layers.0.mlp."
OTHERS = {f"{MLP}gate.weight": torch.arange(E * H).reshape(E, H).float()}


def matrices() -> dict[str, torch.Tensor]:
    """Gate, up and down of all experts."""
    draw = torch.Generator().manual_seed(5)
    shapes = {"gate": (E, N, H), "up": (E, N, H), "down": (E, H, N)}
    return {
        name: torch.randint(-(2**15), 2**15, shape, dtype=torch.int16, generator=draw).view(
            torch.bfloat16
        )
        for name, shape in shapes.items()
    }


def stacked(naming: Naming) -> reference.Tensors:
    named = zip(naming, matrices().values(), strict=True)
    return {**OTHERS, **{f"{MLP}experts.{name}": tensor for name, tensor in named}}


def per_expert(naming: Naming) -> reference.Tensors:
    return {
        **OTHERS,
        **{
            f"{MLP}experts.{expert}.{name}.weight": tensor[expert].contiguous()
            for name, tensor in zip(naming, matrices().values(), strict=True)
            for expert in range(E)
        },
    }


def save(folder: Path, tensors: reference.Tensors, model_type: str = "qwen3_moe") -> Path:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return folder


def save_dcp(folder: Path, tensors: reference.Tensors) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save({"model": tensors}, checkpoint_id=folder, no_dist=True)
    return folder


@pytest.mark.parametrize("to", ["per-expert", "hub"])
def test_the_hub_has_the_names_of_the_family(tmp_path: Path, to: str) -> None:
    source = save(tmp_path / "in", stacked(MIXTRAL))
    streamconv.convert(source, tmp_path / "out", to=to, verify=True)
    assert reference.same_bytes(per_expert(QWEN), reference.read(tmp_path / "out")) == []


def test_experts_that_are_already_split_are_only_renamed(tmp_path: Path) -> None:
    source = save(tmp_path / "in", per_expert(MIXTRAL))
    assert streamconv.inspect(source).detected.form is None
    streamconv.convert(source, tmp_path / "out", to="hub", verify=True)
    assert reference.same_bytes(per_expert(QWEN), reference.read(tmp_path / "out")) == []


@pytest.mark.parametrize("to", [None, "fused", "fused-flat", "transformers"])
def test_what_was_merged_comes_back(tmp_path: Path, to: str | None) -> None:
    """The record says what it was made from, also if the family has other names."""
    source = save(tmp_path / "in", per_expert(MIXTRAL))
    streamconv.convert(source, tmp_path / "out", to=to or "fused")
    streamconv.split(tmp_path / "out", tmp_path / "back")
    assert reference.same_bytes(per_expert(MIXTRAL), reference.read(tmp_path / "back")) == []


def test_an_unknown_model_keeps_its_names(tmp_path: Path) -> None:
    source = save(tmp_path / "in", stacked(MIXTRAL), "novel")
    streamconv.split(source, tmp_path / "out")
    assert reference.same_bytes(per_expert(MIXTRAL), reference.read(tmp_path / "out")) == []


@pytest.mark.parametrize("model_type", ["novel", "qwen3_moe"])
def test_a_template_gives_its_names(tmp_path: Path, model_type: str) -> None:
    """Also to experts that the run calls otherwise, and before those of the family."""
    template = save(tmp_path / "hub", per_expert(MIXTRAL), model_type)
    run = save_dcp(tmp_path / "dcp", stacked(QWEN))
    streamconv.split(run, tmp_path / "out", template=template, verify=True)
    assert reference.same_bytes(per_expert(MIXTRAL), reference.read(tmp_path / "out")) == []


def test_a_template_without_such_names_gives_none(tmp_path: Path) -> None:
    """One that holds all experts fused says nothing of the names of an unknown model."""
    fused = reference.to_layout(per_expert(QWEN), "fused")
    template = save(tmp_path / "hub", fused, "novel")
    run = save_dcp(tmp_path / "dcp", stacked(MIXTRAL))
    streamconv.split(run, tmp_path / "out", template=template)
    assert reference.same_bytes(per_expert(MIXTRAL), reference.read(tmp_path / "out")) == []


def test_without_its_record_the_family_gives_the_names(tmp_path: Path) -> None:
    source = save(tmp_path / "in", per_expert(MIXTRAL))
    streamconv.convert(source, tmp_path / "out", to="fused")
    forget(tmp_path / "out")
    streamconv.split(tmp_path / "out", tmp_path / "back")
    assert reference.same_bytes(per_expert(QWEN), reference.read(tmp_path / "back")) == []
