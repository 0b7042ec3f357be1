"""Which tensors are protected from casts."""

import pytest

from streamconv.catalog.catalog import default_catalog
from streamconv.checkpoint.protected_tensors import KEPT_IN_FP32, protected_kind, protects_always

ROUTERS = (
    "model.layers.0.mlp.gate.weight",
    "model.layers.0.mlp.gate.e_score_correction_bias",
    "model.layers.10.block_sparse_moe.gate.weight",
    "model.layers.1.block_sparse_moe.router.layer.weight",
    "model.layers.1.mlp.router.bias",
    "model.layers.1.mlp.shared_expert_gate.weight",
    "model.layers.1.feed_forward.expert_bias",
    "model.layers.1.mlp.moe_statics.e_score_correction_bias",
    "thinker.model.layers.3.mlp.gate.weight",
)
NORMS = (
    "model.norm.weight",
    "model.layers.0.input_layernorm.weight",
    "model.layers.0.self_attn.q_norm.weight",
    "visual.merger.ln_q.weight",
    "visual.blocks.0.norm1.bias",
    "vision_model.encoder.layers.0.layer_norm1.weight",
    "mlp1.0.weight",
)
OTHERS = (
    "model.embed_tokens.weight",
    "lm_head.weight",
    "model.layers.0.mlp.gate_proj.weight",
    "model.layers.0.mlp.experts.11.gate_proj.weight",
    "model.layers.0.mlp.experts.gate_up_proj",
    "model.layers.0.mlp.experts.gate_up_proj_bias",
    "model.layers.0.self_attn.q_proj.bias",
    "mlp1.1.weight",
)


@pytest.mark.parametrize(
    ("names", "kind"), [(ROUTERS, "router"), (NORMS, "norm"), (OTHERS, None)], ids=str
)
def test_routers_and_norms_are_told_by_name(names: tuple[str, ...], kind: str | None) -> None:
    """And a projection called gate is no router."""
    assert {name: protected_kind(name) for name in names} == dict.fromkeys(names, kind)


def test_the_row_of_a_family_decides_which_tensors_are_routers() -> None:
    """A name that the general patterns would protect is cast, if the family has other routers."""
    family = default_catalog().find_family("qwen3_5_moe_text")
    assert family is not None and family.routers
    name = "model.layers.0.attn.gate.linear.weight"
    assert protected_kind(name) == "router"
    assert protected_kind(name, family) is None
    assert protected_kind("model.layers.0.mlp.gate.weight", family) == "router"


def test_a_family_keeps_tensors_in_fp32_under_every_name() -> None:
    family = next(each for each in default_catalog().families.values() if each.fp32)
    assert protected_kind(f"model.{family.fp32[0]}.weight", family) == KEPT_IN_FP32
    assert protected_kind(f"model.x{family.fp32[0]}.weight", family) is None


def test_only_scales_are_protected_from_cast_all() -> None:
    assert [kind for kind in ("router", "norm", "scale") if protects_always(kind)] == ["scale"]
