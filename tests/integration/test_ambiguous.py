"""Experts whose layout is open are refused, and every hint leads to the right bytes if followed."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import reference
import torch
from safetensors.torch import save_file

import streamconv
from streamconv.errors import PlanRefused

E = 3
LAYOUTS = ("fused", "fused-transposed", "fused-interleaved")
GPT_OSS = {"model_type": "gpt_oss", "num_local_experts": E}


def per_expert(inter: int, hidden: int, prefix: str = "model.") -> reference.Tensors:
    draw = torch.Generator().manual_seed(inter + hidden)
    shapes = {
        "gate_proj": (inter, hidden),
        "up_proj": (inter, hidden),
        "down_proj": (hidden, inter),
    }
    return {
        f"{prefix}layers.0.mlp.experts.{expert}.{name}.weight": torch.randint(
            -(2**15), 2**15, shape, dtype=torch.int16, generator=draw
        ).view(torch.bfloat16)
        for expert in range(E)
        for name, shape in shapes.items()
    }


def save(folder: Path, tensors: reference.Tensors, config: dict[str, Any]) -> Path:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("model_type", ["novel", "glm4_moe"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("inter", "hidden"), [(4, 8), (4, 6), (6, 6)])
def test_the_hint_names_every_layout_that_it_can_be(
    tmp_path: Path, inter: int, hidden: int, layout: str, model_type: str
) -> None:
    """The one that it is in gives the original; names and shapes of all others are the same."""
    original = per_expert(inter, hidden)
    stored = reference.to_layout(original, layout)
    source = save(tmp_path / "in", stored, {"model_type": model_type, "num_experts": E})
    shapes = {name: tensor.shape for name, tensor in stored.items()}
    alike = {
        other
        for other in LAYOUTS
        if {n: t.shape for n, t in reference.to_layout(original, other).items()} == shapes
    }
    options: dict[str, Any] = {}
    if len(alike) > 1:
        with pytest.raises(PlanRefused) as caught:
            streamconv.split(source, tmp_path / "refused")
        hinted = re.findall(r"--from ([\w-]+) \(", caught.value.hint)
        assert set(hinted) == alike
        assert len(hinted) == len(alike)
        assert ("the form transformers of glm4_moe" in caught.value.hint) == (
            model_type == "glm4_moe" and "fused" in alike
        )
        options["source_layout"] = layout
    streamconv.split(source, tmp_path / "out", verify=True, **options)
    assert reference.same_bytes(original, reference.read(tmp_path / "out")) == []


@pytest.mark.parametrize(
    ("prefix", "config"),
    [
        ("language_model.model.", {"model_type": "internvl_chat", "llm_config": GPT_OSS}),
        ("model.language_model.", {"model_type": "internvl", "text_config": GPT_OSS}),
        ("language_model.model.", {"model_type": "novel", "language_config": GPT_OSS}),
    ],
)
@pytest.mark.parametrize("inter", [4, 6])
def test_the_language_model_settles_what_it_is(
    tmp_path: Path, prefix: str, config: dict[str, Any], inter: int
) -> None:
    """gpt-oss inside of another model has gate and up in turn, and square down projections."""
    original = per_expert(inter, 6, prefix)
    stored = reference.to_layout(original, "fused-interleaved")
    source = save(tmp_path / "in", stored, config)
    streamconv.split(source, tmp_path / "out", verify=True)
    assert reference.same_bytes(original, reference.read(tmp_path / "out")) == []
    streamconv.merge(source, tmp_path / "merged")
    streamconv.split(tmp_path / "merged", tmp_path / "back")
    assert reference.same_bytes(original, reference.read(tmp_path / "back")) == []
    if config["model_type"] != "novel":
        streamconv.convert(tmp_path / "merged", tmp_path / "hub", to="hub")
        assert reference.same_bytes(stored, reference.read(tmp_path / "hub")) == []


@pytest.mark.parametrize("model_type", ["internvl", "internvl_chat"])
@pytest.mark.parametrize("text", [{"model_type": "qwen3_moe"}, {}])
def test_another_language_model_does_not(
    tmp_path: Path, model_type: str, text: dict[str, str]
) -> None:
    """The family has gpt-oss as well; that says nothing of experts of Qwen."""
    stored = reference.to_layout(per_expert(4, 6, "language_model.model."), "fused-transposed")
    config = {"model_type": model_type, "text_config": {**text, "num_experts": E}}
    source = save(tmp_path / "in", stored, config)
    with pytest.raises(PlanRefused, match="fused-transposed and fused-interleaved alike"):
        streamconv.split(source, tmp_path / "out")
