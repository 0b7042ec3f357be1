"""Model types as they are published: their experts by formulas, whatever transformers has."""

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

E, N, H = 3, 4, 6
COUNT = {"num_experts": E}
OCR = {"language_config": {"n_routed_experts": E}}
TEXT = {"text_config": COUNT}
GPT_OSS = {"text_config": {"model_type": "gpt_oss", "num_local_experts": E}}
Tensors = reference.Tensors


def random(*shape: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(sum(shape))
    return torch.randint(-(2**15), 2**15, shape, dtype=torch.int16, generator=draw).view(
        torch.bfloat16
    )


def per_expert(prefix: str) -> Tensors:
    return {
        f"{prefix}experts.{k}.{name}.weight": random(*shape, 1 + k)[..., 0].contiguous()
        for k in range(E)
        for name, shape in (("gate_proj", (N, H)), ("up_proj", (N, H)), ("down_proj", (H, N)))
    }


def save(folder: Path, tensors: Tensors, model_type: str, **config: Any) -> Path:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"model_type": model_type, **config}))
    return folder


@pytest.mark.parametrize(
    ("model_type", "prefix", "config", "layout"),
    [
        ("deepseek_vl_v2", "model.layers.1.mlp.", OCR, "per-expert"),
        ("deepseek_vl_v2", "language.model.layers.1.mlp.", OCR, "per-expert"),
        ("internvl", "language_model.model.layers.0.mlp.", TEXT, "per-expert"),
        ("internvl", "model.language_model.layers.0.mlp.", TEXT, "per-expert"),
        ("internvl", "language_model.model.layers.0.mlp.", GPT_OSS, "fused-interleaved"),
        ("bailing_moe_v2", "model.layers.0.mlp.", COUNT, "per-expert"),
        ("glm4v_moe_text", "model.language_model.layers.0.mlp.", COUNT, "per-expert"),
        ("qwen3_vl_moe_text", "model.language_model.layers.0.mlp.", COUNT, "fused-transposed"),
        ("qwen3_vl_moe_text", "model.layers.0.mlp.", COUNT, "fused-transposed"),
        ("mistral3", "language_model.model.layers.0.mlp.", TEXT, "fused"),
        ("mistral4", "model.layers.0.mlp.", COUNT, "fused"),
        ("gemma4", "model.language_model.layers.0.", TEXT, "fused"),
        ("gemma4_text", "model.layers.0.", COUNT, "fused"),
        ("kimi_k3", "language_model.model.layers.0.mlp.", TEXT, "per-expert"),
        ("mimo_v2", "model.layers.0.mlp.", COUNT, "per-expert"),
        ("kimi_linear_v2", "model.layers.1.block_sparse_moe.", COUNT, "per-expert"),
        ("ernie4_5_moe", "model.layers.1.mlp.", {"moe_num_experts": E}, "per-expert"),
    ],
)
def test_experts_of_a_published_type(
    tmp_path: Path, model_type: str, prefix: str, config: dict[str, Any], layout: str
) -> None:
    """In the hub's form, as far as a row has it, and in every layout and back."""
    original = reference.to_layout(per_expert(prefix), layout)
    source = save(tmp_path / "in", original, model_type, **config)
    found = streamconv.inspect(source).detected
    assert found.form == ("hub" if found.family else None)
    assert [stack.row.layout.name for stack in found.stacks] == [layout]
    for other in ("per-expert", "fused", "fused-flat", "stacked"):
        streamconv.convert(source, tmp_path / other, to=other, copy=True, verify=True)
        expected = reference.to_layout(per_expert(prefix), other)
        assert reference.same_bytes(expected, reference.read(tmp_path / other)) == [], other
        if found.family:
            back = tmp_path / f"{other}-back"
            streamconv.convert(tmp_path / other, back, to="hub", copy=True)
            assert reference.same_bytes(original, reference.read(back)) == [], other


def test_names_that_lack_a_part_are_nobodys(tmp_path: Path) -> None:
    """As a trainer saved Qwen3-VL: no form is claimed, and a rename leads to the hub's."""
    here, there = "model.layers.0.mlp.", "model.language_model.layers.0.mlp."
    gate = random(E, H)
    tensors = {**per_expert(here), f"{here}gate.weight": gate}
    source = save(tmp_path / "in", tensors, "qwen3_vl_moe", text_config=COUNT)
    assert streamconv.inspect(source).detected.form is None
    with pytest.raises(PlanRefused, match="the form 'hub'"):
        streamconv.convert(source, tmp_path / "out", to="hub")
    plan = streamconv.merge(source, tmp_path / "out", verify=True).plan
    assert plan.target.form is None
    assert "is not a stack of qwen3_vl_moe" in plan.target.why
    expected = reference.to_layout(per_expert(here), plan.target.asked)
    expected[f"{here}gate.weight"] = gate
    assert reference.same_bytes(expected, reference.read(tmp_path / "out")) == []
    renames = ["model.layers.=model.language_model.layers."]
    streamconv.convert(source, tmp_path / "hub", to="hub", rename=renames, verify=True)
    expected = reference.to_layout(per_expert(there), "fused-transposed")
    expected[f"{there}gate.weight"] = gate
    assert reference.same_bytes(expected, reference.read(tmp_path / "hub")) == []


@pytest.fixture
def step(tmp_path: Path) -> Path:
    """Step 3.5, stacked under names of its own, with a router's bias in float32."""
    moe = "model.layers.1.moe."
    tensors = {
        f"{moe}gate_proj.weight": random(E, N, H),
        f"{moe}up_proj.weight": random(E, N, H, 1)[..., 0].contiguous(),
        f"{moe}down_proj.weight": random(E, H, N),
        f"{moe}gate.weight": random(E, H).float(),
        f"{moe}router_bias": torch.arange(float(E)),
        "model.layers.1.self_attn.q_proj.weight": torch.ones(H, H),
    }
    return save(tmp_path / "step", tensors, "step3p5", moe_num_experts=E)


def test_step_3_5(step: Path, tmp_path: Path) -> None:
    original = reference.read(step)
    gate, up, down = (original.pop(f"model.layers.1.moe.{n}_proj.weight") for n in GATED)
    assert streamconv.inspect(step).detected.form == "hub"
    streamconv.merge(step, tmp_path / "out", verify=True)
    moe = "model.layers.1.moe."
    expected = {
        f"{moe}experts.gate_up_proj": torch.cat([gate, up], 1),
        f"{moe}down_proj.weight": down,
    }
    assert reference.same_bytes({**original, **expected}, reference.read(tmp_path / "out")) == []
    streamconv.convert(tmp_path / "out", tmp_path / "back", to="hub")
    assert reference.same_bytes(reference.read(step), reference.read(tmp_path / "back")) == []


GATED = ("gate", "up", "down")


@pytest.mark.parametrize("model_type", ["step3p5", "novel"])
def test_a_cast_leaves_the_router_and_the_plan_names_it(
    step: Path, tmp_path: Path, model_type: str
) -> None:
    """Its bias too, whose name no pattern of words fits, of a known and of an unknown type."""
    (step / "config.json").write_text(json.dumps({"model_type": model_type}))
    command = ["convert", str(step), str(tmp_path / "out"), "--to", "same", "--dtype", "bf16"]
    shown = " ".join(CliRunner().invoke(cli, [*command, "--dry-run"]).output.split())
    assert "not cast: 2 routers: model.layers.*.moe.gate.weight (1)" in shown
    assert "model.layers.*.moe.router_bias (1)" in shown
    assert "F32 to BF16: model.layers.*.self_attn.q_proj.weight (1)" in shown
    fields = json.loads(CliRunner().invoke(cli, [*command, "--dry-run", "--json"]).stdout)
    assert fields["target"]["not_cast_tensors"] == {
        "router": ["model.layers.*.moe.gate.weight", "model.layers.*.moe.router_bias"]
    }
    streamconv.convert(step, tmp_path / "out", to="same", dtype="bf16")
    out = reference.read(tmp_path / "out")
    assert out["model.layers.1.moe.router_bias"].dtype == torch.float32
    assert out["model.layers.1.moe.gate.weight"].dtype == torch.float32
    assert out["model.layers.1.self_attn.q_proj.weight"].dtype == torch.bfloat16


def test_nemotron_omni_has_no_gates(tmp_path: Path) -> None:
    prefix = "language_model.backbone.layers.1.mixer."
    tensors = {n: t for n, t in per_expert(prefix).items() if "gate_proj" not in n}
    config = {"llm_config": {"model_type": "nemotron_h", "n_routed_experts": E}}
    source = save(tmp_path / "in", tensors, "NemotronH_Nano_Omni_Reasoning_V3", **config)
    streamconv.merge(source, tmp_path / "out", verify=True)
    expected = {
        f"{prefix}experts.{name}": torch.stack(
            [tensors[f"{prefix}experts.{k}.{name}.weight"] for k in range(E)]
        )
        for name in ("up_proj", "down_proj")
    }
    assert reference.same_bytes(expected, reference.read(tmp_path / "out")) == []
    streamconv.convert(tmp_path / "out", tmp_path / "back", to="hub")
    assert reference.same_bytes(tensors, reference.read(tmp_path / "back")) == []


@pytest.mark.parametrize(
    ("model_type", "name", "reason"),
    [
        ("ernie4_5_moe_vl", "gate_proj", "one list of experts"),
    ],
)
def test_what_is_refused_is_passed_through(
    tmp_path: Path, model_type: str, name: str, reason: str
) -> None:
    tensors = {f"model.layers.0.mlp.experts.{k}.{name}.weight": random(N, H) for k in range(E)}
    source = save(tmp_path / "in", tensors, model_type)
    with pytest.raises(PlanRefused, match=reason):
        streamconv.split(source, tmp_path / "no")
    streamconv.split(source, tmp_path / "out", pass_through=True, copy=True)
    assert reference.same_bytes(tensors, reference.read(tmp_path / "out")) == []


def test_up_before_gate(tmp_path: Path) -> None:
    """HunyuanImage-3: its code takes the first half of the tensor for up, the other for gate."""
    fused, expected = {}, {}
    for k in range(E):
        name = f"model.layers.0.mlp.experts.{k}."
        both, down = random(2 * N, H), random(H, N)
        fused |= {f"{name}gate_and_up_proj.weight": both, f"{name}down_proj.weight": down}
        up, gate = both.chunk(2)
        expected |= {f"{name}up_proj.weight": up, f"{name}gate_proj.weight": gate}
        expected[f"{name}down_proj.weight"] = down
    source = save(tmp_path / "in", fused, "hunyuan_image_3_moe")
    streamconv.split(source, tmp_path / "out")
    assert reference.same_bytes(expected, reference.read(tmp_path / "out")) == []
    streamconv.merge(tmp_path / "out", tmp_path / "back")
    assert reference.same_bytes(fused, reference.read(tmp_path / "back")) == []
