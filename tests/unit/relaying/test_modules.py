"""Which module an emitted tensor belongs to: by its hub name, whatever came before."""

import pytest

from streamconv.catalog.catalog import default_catalog
from streamconv.checkpoint.types import TensorInfo
from streamconv.errors import BadCheckpoint
from streamconv.relaying.modules import ModuleFinder

CATALOG = default_catalog()


def finder(model_type: str | None) -> ModuleFinder:
    return ModuleFinder(CATALOG, CATALOG.find_family(model_type))


def expert(name: str, model_type: str | None = "qwen3_moe") -> tuple[str, str] | None:
    found = finder(model_type).expert(name, TensorInfo(name, "BF16", (2, 2), "", 0, 8))
    return found and (found[0], found[1].name)


@pytest.mark.parametrize(
    ("name", "prefix", "below"),
    [
        ("model.layers.3.mlp.experts.7.up_proj.weight", "mlp.", "experts.*.up_proj.weight"),
        ("model.layers.3.mlp.experts.gate_up_proj", "mlp.", "experts.gate_up_proj"),
        ("model.layers.3.x.mlp.experts.down_proj", "x.mlp.", "experts.down_proj"),
    ],
)
def test_experts_are_found_by_the_prefix_of_their_module(
    name: str, prefix: str, below: str
) -> None:
    assert expert(name) == (f"model.layers.3.{prefix}", below)


@pytest.mark.parametrize("name", ["model.layers.3.mlp.gate.weight", "lm_head.weight", "x"])
def test_other_tensors_are_of_no_module(name: str) -> None:
    assert expert(name) is None


@pytest.mark.parametrize(("model_type", "is_found"), [("dbrx", True), ("qwen3_moe", False)])
def test_a_naming_that_only_its_family_has(model_type: str, is_found: bool) -> None:
    """`v1` is a projection of DBRX, and may be anything in other models."""
    found = expert("transformer.blocks.0.ffn.experts.0.v1.weight", model_type)
    assert (found is not None) == is_found


def test_an_expert_that_is_numbered_otherwise() -> None:
    with pytest.raises(BadCheckpoint, match="07 is not how experts are numbered"):
        expert("model.layers.3.mlp.experts.07.up_proj.weight")


def test_a_key_names_one_expert() -> None:
    found = finder("qwen3_moe").expert(
        "a.experts.5.up_proj.weight", TensorInfo("", "BF16", (2, 2), "", 0, 8)
    )
    assert found is not None
    assert found[1].with_number(3) == "experts.3.up_proj.weight"
    assert found[1].with_number(None) == found[1].name


def test_a_tensor_of_a_group_is_found_in_the_form_that_it_has() -> None:
    """Three convolutions on the hub, which transformers holds as one."""
    found = finder("kimi_linear")
    family = CATALOG.find_family("kimi_linear")
    assert family is not None
    hub, held = family.forms["hub"], family.forms["transformers"]
    apart, joined = (f"model.layers.4.self_attn.{n}conv1d.weight" for n in ("k_", ""))
    for name, form, other in ((apart, hub, held), (joined, held, hub)):
        tensor = found.group(name, form)
        assert tensor is not None
        assert tensor[0].prefix == "model.layers.4.self_attn."
        assert found.group(name, other) is None
    assert found.group("lm_head.weight", hub) is None
    assert finder(None).group(apart, hub) is None
