"""What of a config.json may reach transformers."""

from typing import Any

import pytest

from streamconv.checkpoint.types import Checkpoint, TensorInfo
from streamconv.errors import BadCheckpoint, PlanRefused
from streamconv.verification.config_values import (
    MAX_DEPTH,
    Shown,
    check_sizes,
    quantization_method,
    safe_config,
)


def checkpoint(config: dict[str, Any], *names: str) -> Checkpoint:
    """A checkpoint of tensors `[8, 500]`."""
    infos = {name: TensorInfo(name, "BF16", (8, 500), "f", 0, 8000) for name in names}
    return Checkpoint("here", infos, (), (), config, record=None, total_bytes=0)


LAYERS = [f"model.layers.{number}.w.weight" for number in (0, 99)]


def test_what_the_headers_show() -> None:
    assert Shown.of(checkpoint({}, *LAYERS)) == Shown(100, 500)
    assert Shown.of(checkpoint({}, "model.layers.900.w")) == Shown(901, 901)
    assert Shown.of(checkpoint({})) == Shown(1, 1)


@pytest.mark.parametrize(
    ("key", "limit"),
    [
        ("num_hidden_layers", 400),
        ("n_layer", 400),
        ("num_experts", 4096),
        ("num_labels", 4096),
        ("hidden_size", 2**20),
        ("max_position_embeddings", 2**26),
    ],
)
def test_a_config_may_count_some_more_than_the_tensors_show(key: str, limit: int) -> None:
    """At any depth, but not any number."""
    for config in ({key: limit}, {"text_config": {key: [limit]}}):
        check_sizes(checkpoint(config, *LAYERS))
    for config in ({key: limit + 1}, {"text_config": {"x": {key: [1, limit + 1]}}}):
        with pytest.raises(BadCheckpoint, match=f"cannot check here: config.json says {key} = "):
            check_sizes(checkpoint(config, *LAYERS))


def test_other_numbers_are_of_no_interest() -> None:
    check_sizes(checkpoint({"vocab": 10**12, "rope_theta": 1e9, "eos_token_id": 10**9}, *LAYERS))


@pytest.mark.parametrize(
    "left_out",
    [
        {"auto_map": {"AutoModel": "modeling.Model"}},
        {"_name_or_path": "org/name"},
        {"attn_implementation": "org/kernel"},
        {"_attn_implementation_internal": "sdpa"},
        {"use_kernels": True},
        {"dtype": "__import__"},
        {"torch_dtype": 3},
        {"attribute_map": {"foo": "_attn_implementation"}},
        {"sub_configs": {}},
        {"base_model_tp_plan": {"layers.*": "x"}},
        {"__class__": "x"},
        {"get_text_config": 5},
    ],
)
def test_names_of_code_and_places_are_left_out(left_out: dict[str, Any]) -> None:
    """At any depth; everything else stays."""
    config = {"model_type": "x", **left_out, "text_config": {**left_out, "hidden_size": 8}}
    config["list"] = [{**left_out, "a": None}]
    expected = {"model_type": "x", "text_config": {"hidden_size": 8}, "list": [{"a": None}]}
    assert safe_config(checkpoint(config), ()) == expected


@pytest.mark.parametrize(
    "kept",
    [
        {"attn_implementation": "sdpa"},
        {"experts_implementation": "grouped_mm"},
        {"dtype": "bfloat16"},
        {"torch_dtype": "float8_e4m3fn"},
        {"backbone": None},
    ],
)
def test_values_that_do_no_harm_stay(kept: dict[str, Any]) -> None:
    assert safe_config(checkpoint(kept), ()) == kept


def test_a_backbone_is_refused() -> None:
    with pytest.raises(PlanRefused, match="backbone = resnet50, which transformers would fetch"):
        safe_config(checkpoint({"vision_config": {"backbone": "resnet50"}}), ())


@pytest.mark.parametrize("nested", [lambda inner: {"a": inner}, lambda inner: [inner]])
def test_a_config_that_nests_too_deep(nested: Any) -> None:
    config: Any = {}
    for _ in range(MAX_DEPTH - 1):
        config = nested(config)
    assert safe_config(checkpoint({"x": config}), ())
    for _ in range(2):
        config = nested(config)
    with pytest.raises(BadCheckpoint, match=f"config.json nests deeper than {MAX_DEPTH}"):
        safe_config(checkpoint({"x": config}), ())


@pytest.mark.parametrize(
    ("config", "method"),
    [
        ({}, None),
        ({"quantization_config": {"quant_method": "fp8"}}, "fp8"),
        ({"quantization_config": {"load_in_8bit": True}}, "bitsandbytes_8bit"),
        ({"quantization_config": {"load_in_4bit": 1, "quant_method": "x"}}, "bitsandbytes_4bit"),
        ({"text_config": {"quantization_config": {"quant_method": "awq"}}}, "awq"),
        ({"quantization_config": [], "llm_config": {"quantization_config": {}}}, None),
        ({"quantization_config": {"quant_method": 3}}, None),
    ],
)
def test_how_weights_are_quantized(config: dict[str, Any], method: str | None) -> None:
    assert quantization_method(config) == method


def test_a_method_that_needs_another_package_is_refused() -> None:
    """If transformers knows it at all."""
    config = {"quantization_config": {"quant_method": "quark"}}
    assert safe_config(checkpoint(config), {"fp8"}) == config
    with pytest.raises(PlanRefused, match="by quark, for which transformers would import"):
        safe_config(checkpoint(config), {"fp8", "quark"})
