"""What lies next to experts: under the names of the model type, or of nobody."""

from pathlib import Path

import pytest
from folders import qwen_tensors, tensor, write_checkpoint
from header_models import Tensors, checkpoint_of, experts

import streamconv
from streamconv.catalog.catalog import default_catalog
from streamconv.detection.detect import detect
from streamconv.planning.merge_target import merge_target
from streamconv.report.plan_notes import notes_of

ODD = (
    "mlp.router.weight",
    "mlp.gate_x.weight",
    "mlp.gate.bias",
    "mlp.shared_expert.up_proj.weight",
)


@pytest.mark.parametrize("name", ODD)
def test_a_name_next_to_experts_that_is_nobodys(name: str, tmp_path: Path) -> None:
    """Merged by layout, under its own names, and said so; not claimed if a form is asked for."""
    odd = f"model.layers.0.{name}"
    tensors = {**qwen_tensors(), odd: tensor("odd", "BF16", 3, 6)}
    config = {"model_type": "qwen3_moe", "num_experts": 3}
    source = write_checkpoint(tmp_path / "src", {"model.safetensors": tensors}, config, False)
    shown = f"model.layers.*.{name} (1)"
    inspected = streamconv.inspect(source)
    assert inspected.form is None
    assert inspected.detected.unknown_names == (odd,)
    plan = streamconv.plan(source)
    assert (plan.target.asked, plan.target.form) == ("fused", None)
    assert shown in plan.target.why
    assert any(shown in note for note in notes_of(plan))
    assert odd in {step.name for shard in plan.shards for step in shard.steps}
    asked = streamconv.plan(source, to="transformers")
    assert (asked.target.asked, asked.target.form) == ("transformers", None)


@pytest.mark.parametrize(
    ("model_type", "name", "form"),
    [
        ("qwen3_moe", "mlp.gate.weight", "hub"),
        ("qwen3_moe", "mlp.gate.weight_scale_inv", "hub"),
        ("qwen3_moe", "mlp.router.gate.weight", None),
        ("afmoe", "mlp.router.gate.weight", "hub"),
        ("afmoe", "mlp.gate.weight", None),
        ("qwen2_moe", "mlp.shared_expert.up_proj.weight", "hub"),
        ("qwen2_moe", "mlp.shared_experts.up_proj.weight", None),
        ("deepseek_v3", "mlp.shared_experts.up_proj.weight", "hub"),
        ("deepseek_v3", "mlp.gate.bias", None),
        ("deepseek_v3", "self_attn.kv_b_proj.bias", "hub"),
    ],
)
def test_what_lies_next_to_experts_is_the_model_types(
    model_type: str, name: str, form: str | None
) -> None:
    odd: Tensors = {f"model.layers.0.{name}": ("BF16", (3, 6))}
    made = checkpoint_of({**experts("model.layers.0.mlp.", 3, 4, 6), **odd}, model_type)
    assert detect(made, default_catalog()).form == form


def test_a_merge_that_only_renames_goes_on() -> None:
    """By layout, there would be nothing to do."""
    prefix = "language_model.model.layers.0.mlp."
    odd: Tensors = {f"{prefix}gate_x.weight": ("BF16", (2, 6))}
    tensors: Tensors = {
        f"{prefix}experts.fc1.weight": ("BF16", (3, 6, 8)),
        f"{prefix}experts.fc2.weight": ("BF16", (3, 4, 6)),
    }
    found = detect(checkpoint_of({**tensors, **odd}, "aria"), default_catalog())
    assert (merge_target(found)[0], found.form) == ("transformers", None)


@pytest.mark.parametrize("name", ["experts.gate.weight", "experts.shared.up_proj.weight"])
def test_what_lies_between_experts_is_held_to_the_same(name: str) -> None:
    odd: Tensors = {f"model.layers.0.mlp.{name}": ("BF16", (3, 6))}
    made = checkpoint_of({**experts("model.layers.0.mlp.", 3, 4, 6), **odd}, "qwen3_moe")
    found = detect(made, default_catalog())
    assert (found.form, found.unknown_names) == (None, tuple(odd))
