"""Experts under every name that they have somewhere: the formulas of each, merged and split."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import reference
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

import streamconv
from streamconv.cli import cli
from streamconv.errors import BadCheckpoint, PlanRefused

E, N, H = 3, 4, 6
MLP = "model.layers.0.mlp."
QWEN, MIXTRAL = ("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2")
Tensors = reference.Tensors
Weights = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def weights() -> Weights:
    """Gate and up of shape [E, N, H], and down of shape [E, H, N]."""
    draw = torch.Generator().manual_seed(2)
    gate, up, down = (
        torch.randint(-(2**15), 2**15, shape, dtype=torch.int16, generator=draw).view(
            torch.bfloat16
        )
        for shape in ((E, N, H), (E, N, H), (E, H, N))
    )
    return gate, up, down


def per_expert(names: tuple[str, str, str] = QWEN, end: str = ".weight") -> Tensors:
    return {
        f"{MLP}experts.{k}.{name}{end}": matrix[k].contiguous()
        for name, matrix in zip(names, weights(), strict=True)
        for k in range(E)
    }


def stacked(pattern: str, names: tuple[str, str, str]) -> Tensors:
    return {
        MLP + pattern.format(name): matrix for name, matrix in zip(names, weights(), strict=True)
    }


def fused(gate_up_name: str, down_name: str) -> Tensors:
    gate, up, down = weights()
    return {f"{MLP}{gate_up_name}": torch.cat([gate, up], 1), f"{MLP}{down_name}": down}


def transposed(gate_up_name: str, down_name: str) -> Tensors:
    return {
        name: tensor.transpose(1, 2).contiguous()
        for name, tensor in fused(gate_up_name, down_name).items()
    }


def halves(gate_up_name: str, down_name: str) -> Tensors:
    """A tensor an expert, gate above up."""
    gate, up, down = weights()
    return {
        MLP + name.format(k): tensor.contiguous()
        for k in range(E)
        for name, tensor in (
            (gate_up_name, torch.cat([gate[k], up[k]])),
            (down_name, down[k]),
        )
    }


def in_turn(gate_up_name: str, down_name: str) -> Tensors:
    """A tensor an expert, rows of gate and up in turn."""
    gate, up, _ = weights()
    made = halves(gate_up_name, down_name)
    for k in range(E):
        made[MLP + gate_up_name.format(k)] = torch.stack([gate[k], up[k]], 1).flatten(0, 1)
    return made


SPELLINGS: dict[str, tuple[Callable[[], Tensors], tuple[str, str, str]]] = {
    "a tensor an expert for gate and up": (
        lambda: halves("experts.{}.gate_up_proj.weight", "experts.{}.down_proj.weight"),
        QWEN,
    ),
    "the same as w13": (lambda: halves("experts.{}.w13.weight", "experts.{}.w2.weight"), MIXTRAL),
    "the same without weight": (lambda: halves("experts.{}.w13", "experts.{}.w2"), MIXTRAL),
    "an expert's without weight": (lambda: per_expert(MIXTRAL, ""), MIXTRAL),
    "lists of projections": (
        lambda: {
            f"{MLP}experts.{name}.{k}.weight": matrix[k].contiguous()
            for name, matrix in zip(QWEN, weights(), strict=True)
            for k in range(E)
        },
        QWEN,
    ),
    "fused as modules": (
        lambda: fused("experts.gate_up_proj.weight", "experts.down_proj.weight"),
        QWEN,
    ),
    "transposed as modules": (
        lambda: transposed("experts.gate_up_proj.weight", "experts.down_proj.weight"),
        QWEN,
    ),
    "stacked as modules": (lambda: stacked("experts.{}.weight", QWEN), QWEN),
    "stacked of prime-rl": (lambda: stacked("experts.{}", MIXTRAL), MIXTRAL),
    "switch_mlp of MLX": (lambda: stacked("switch_mlp.{}.weight", QWEN), QWEN),
    "switch_glu of MLX": (lambda: stacked("experts.switch_glu.{}.weight", QWEN), QWEN),
    "torchtitan": (lambda: stacked("experts.{}", ("w1_EFD", "w3_EFD", "w2_EDF")), MIXTRAL),
    "torchtitan, later": (
        lambda: stacked("routed_experts.inner_experts.{}", ("w1_EFD", "w3_EFD", "w2_EDF")),
        MIXTRAL,
    ),
}
AMBIGUOUS: dict[str, tuple[Callable[[], Tensors], str]] = {
    "vLLM": (lambda: fused("experts.w13_weight", "experts.w2_weight"), "fused"),
    "lists of experts": (
        lambda: halves("experts.gate_up_projs.{}.weight", "experts.down_projs.{}.weight"),
        "expert-lists",
    ),
    "lists of experts without modules": (
        lambda: halves("experts.gate_up_projs.{}", "experts.down_projs.{}"),
        "expert-lists",
    ),
    "lists of modules": (
        lambda: in_turn("experts.gate_up_projs.{}.weight", "experts.down_projs.{}.weight"),
        "expert-lists-interleaved",
    ),
}


def save(folder: Path, tensors: Tensors, **config: Any) -> Path:
    folder.mkdir()
    router = {f"{MLP}gate.weight": torch.zeros(E, H)}
    save_file({**tensors, **router}, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"model_type": "novel", **config}))
    return folder


def read(folder: Path) -> Tensors:
    return {n: t for n, t in reference.read(folder).items() if not n.endswith("gate.weight")}


def check(source: Path, names: tuple[str, str, str], tmp_path: Path, **options: Any) -> None:
    """Split, merged, and split again, always under the names of the templates."""
    streamconv.split(source, tmp_path / "split", verify=True, **options)
    assert reference.same_bytes(per_expert(names), read(tmp_path / "split")) == []
    streamconv.merge(source, tmp_path / "fused", verify=True, **options)
    expected = fused("experts.gate_up_proj", "experts.down_proj")
    assert reference.same_bytes(expected, read(tmp_path / "fused")) == []
    streamconv.convert(source, tmp_path / "same", to="same", copy=True, **options)
    assert reference.same_bytes(read(source), read(tmp_path / "same")) == []
    streamconv.split(tmp_path / "fused", tmp_path / "back", verify=True)
    assert reference.same_bytes(per_expert(names), read(tmp_path / "back")) == []


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling(name: str, tmp_path: Path) -> None:
    build, names = SPELLINGS[name]
    options = {"source_layout": "fused-transposed"} if name.startswith("transposed") else {}
    check(save(tmp_path / "in", build()), names, tmp_path, **options)


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_names_that_two_layouts_have_are_asked_for(name: str, tmp_path: Path) -> None:
    build, layout = AMBIGUOUS[name]
    source = save(tmp_path / "in", build())
    with pytest.raises(PlanRefused, match="fits") as caught:
        streamconv.split(source, tmp_path / "refused")
    assert f"--from {layout} (" in caught.value.hint
    check(source, QWEN, tmp_path, source_layout=layout)


def test_scales_are_spelled_like_their_weights(tmp_path: Path) -> None:
    """FP8 of Qwen3-VL as modules: a scale for each block of one."""
    tensors = fused("experts.gate_up_proj.weight", "experts.down_proj.weight")
    scales = {f"{name}_scale_inv": tensor.float() for name, tensor in tensors.items()}
    source = save(tmp_path / "in", {**tensors, **scales})
    streamconv.split(source, tmp_path / "out", verify=True)
    gate, up, down = weights()
    expected = {
        f"{MLP}experts.{k}.{name}.weight_scale_inv": matrix[k].float()
        for name, matrix in zip(QWEN, (gate, up, down), strict=True)
        for k in range(E)
    }
    assert reference.same_bytes({**per_expert(), **expected}, read(tmp_path / "out")) == []


def test_two_names_of_one_weight_are_refused(tmp_path: Path) -> None:
    both = {
        **fused("experts.gate_up_proj", "experts.down_proj"),
        **fused("experts.gate_up_proj.weight", "experts.down_proj.weight"),
    }
    with pytest.raises(BadCheckpoint, match="are two names of one weight"):
        streamconv.split(save(tmp_path / "in", both), tmp_path / "out")


def test_experts_without_a_gate_of_a_model_that_is_not_known(tmp_path: Path) -> None:
    """As Nemotron has them; of a family with gates they would be incomplete."""
    tensors = {n: t for n, t in per_expert().items() if "gate_proj" not in n}
    source = save(tmp_path / "in", tensors)
    streamconv.merge(source, tmp_path / "out", verify=True)
    _, up, down = weights()
    expected = {f"{MLP}experts.up_proj": up, f"{MLP}experts.down_proj": down}
    assert reference.same_bytes(expected, read(tmp_path / "out")) == []
    streamconv.split(tmp_path / "out", tmp_path / "back")
    assert reference.same_bytes(tensors, read(tmp_path / "back")) == []
    known = save(tmp_path / "known", tensors, model_type="qwen3_moe")
    with pytest.raises(BadCheckpoint, match=r"0\.gate_proj\.weight is missing"):
        streamconv.merge(known, tmp_path / "no")


def test_packed_experts_of_mlx_are_named(tmp_path: Path) -> None:
    """Codes, eight in an element: refused as such, and passed through."""
    shapes = {"gate_proj": (E, 8, 8), "up_proj": (E, 8, 8), "down_proj": (E, 64, 1)}
    tensors: Tensors = {}
    for name, shape in shapes.items():
        tensors[f"{MLP}switch_mlp.{name}.weight"] = torch.zeros(shape, dtype=torch.uint32)
        tensors[f"{MLP}switch_mlp.{name}.scales"] = torch.zeros(shape)
    source = save(tmp_path / "in", tensors)
    with pytest.raises(PlanRefused, match="its elements are codes") as caught:
        streamconv.split(source, tmp_path / "no")
    assert "switch_mlp" in caught.value.message
    streamconv.split(source, tmp_path / "out", pass_through=True, copy=True)
    assert reference.same_bytes(tensors, read(tmp_path / "out")) == []


def test_what_config_json_counts_and_nobody_found(tmp_path: Path) -> None:
    tensors = {f"{MLP}odd_experts.{k}.up": torch.zeros(3) for k in range(E)}
    source = save(tmp_path / "in", tensors, text_config={"num_experts": E})
    shown = " ".join(CliRunner().invoke(cli, ["inspect", str(source)]).output.split())
    assert f"experts: config.json says text_config.num_experts = {E}" in shown
    fields = json.loads(CliRunner().invoke(cli, ["inspect", str(source), "--json"]).stdout)
    assert fields["experts_not_found"] == [f"text_config.num_experts = {E}"]
    assert not streamconv.inspect(save(tmp_path / "found", per_expert())).detected.not_found
