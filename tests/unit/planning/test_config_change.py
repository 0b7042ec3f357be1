"""Which keys of config.json a conversion changes, by plans of headers alone."""

import dataclasses
from typing import Any

import pytest
from header_models import checkpoint_of, experts

from streamconv.catalog.catalog import default_catalog
from streamconv.checkpoint.casting import AS_STORED, Casting
from streamconv.detection.detect import detect
from streamconv.planning.config_change import ConfigChange, config_change
from streamconv.quantization.cast_checkpoint import cast_checkpoint

OMNI = "qwen3_omni_moe"


def changed(
    config: dict[str, Any],
    casting: Casting = AS_STORED,
    layers: range | None = None,
    *,
    quantized: bool = False,
    keep: bool = False,
) -> ConfigChange:
    """What becomes of the config of a model of three layers of a thinker, and a talker's one."""
    tensors: dict[str, Any] = {"thinker.visual.blocks.0.weight": ("BF16", (2, 2))}
    for stack, count in (("thinker", 3), ("talker", 1)):
        for layer in range(count):
            tensors |= experts(f"{stack}.model.layers.{layer}.mlp.", 2, 4, 4)
            if quantized and stack == "thinker":
                name = f"{stack}.model.layers.{layer}.self_attn.q_proj.weight"
                tensors[name] = ("F8_E4M3", (64, 64))
                tensors[f"{name}_scale_inv"] = ("F32", (1, 1))
                tensors[name.replace("q_proj.weight", "k_scale")] = ("F32", (1,))
    config = {"model_type": OMNI, **config}
    checkpoint = dataclasses.replace(checkpoint_of(tensors, OMNI), config=config)
    catalog = default_catalog()
    cast = cast_checkpoint(checkpoint, casting, catalog.find_family(OMNI))
    return config_change(checkpoint, detect(cast, catalog), casting, layers, keep=keep)


def edits(change: ConfigChange) -> dict[str, Any]:
    return {".".join(edit.path): edit.new for edit in change.edits}


NESTED: dict[str, Any] = {
    "thinker_config": {
        "text_config": {"num_hidden_layers": 3, "dtype": "bfloat16", "layer_types": [1, 2, 3]},
        "vision_config": {"num_hidden_layers": 3, "dtype": "bfloat16", "layer_types": [1, 2, 3]},
        "dtype": "bfloat16",
    },
    "talker_config": {"text_config": {"num_hidden_layers": 1}, "dtype": "bfloat16"},
    "dtype": "bfloat16",
    "auto": {"dtype": "float32", "torch_dtype": 16},
}
THINKER = "thinker_config.text_config"


def test_a_cast_is_of_the_whole_model() -> None:
    """Each section that says another dtype, in the order of the text."""
    change = changed(NESTED, Casting("F32"))
    assert list(edits(change)) == [
        f"{THINKER}.dtype",
        "thinker_config.vision_config.dtype",
        "thinker_config.dtype",
        "talker_config.dtype",
        "dtype",
    ]
    assert set(edits(change).values()) == {"float32"}


def test_a_dequantization_is_of_the_language_model() -> None:
    """The vision tower was not quantized, and keeps its dtype."""
    described = {**NESTED, "quantization_config": {"quant_method": "fp8"}}
    change = changed(described, Casting(dequantize="F32"), quantized=True)
    assert change.left_out >= {"hf_quant_config.json"}
    assert set(edits(change)) == {
        "quantization_config",
        "dtype",
        "thinker_config.dtype",
        f"{THINKER}.dtype",
        "talker_config.dtype",
    }
    same = changed(described, Casting(dequantize="BF16"), quantized=True)
    assert set(edits(same)) == {"quantization_config"}
    assert edits(changed(described, quantized=True)) == {}


@pytest.mark.parametrize(
    ("layers", "wanted"),
    [
        (range(2), {"num_hidden_layers": 2, "layer_types": [1, 2]}),
        (range(1), {"num_hidden_layers": 1, "layer_types": [1]}),
        (range(3), {}),
        (range(10**9), {}),
        (range(1, 2), {}),
        (None, {}),
    ],
)
def test_layers(layers: range | None, wanted: dict[str, Any]) -> None:
    """Of the section that describes them: neither the tower's, nor those of a shorter list."""
    change = changed(NESTED, layers=layers)
    assert edits(change) == {f"{THINKER}.{key}": new for key, new in wanted.items()}
    assert len(change.notes) == (layers == range(1, 2))


def test_two_lists_of_layers_in_one_section() -> None:
    """Its number is changed once."""
    tensors: dict[str, Any] = {}
    for path, count in (("model.language_model.layers", 3), ("mtp.layers", 1)):
        for layer in range(count):
            tensors |= experts(f"{path}.{layer}.mlp.", 2, 4, 4)
    config = {"model_type": "qwen3_5_moe", "text_config": {"num_hidden_layers": 3}}
    checkpoint = dataclasses.replace(checkpoint_of(tensors), config=config)
    found = detect(checkpoint, default_catalog())
    assert len(found.layer_lists) == 2
    change = config_change(checkpoint, found, AS_STORED, range(2))
    assert [(edit.path, edit.new) for edit in change.edits] == [
        (("text_config", "num_hidden_layers"), 2)
    ]


def test_a_config_that_is_kept() -> None:
    """Says what would be changed."""
    change = changed(NESTED, Casting("F32"), range(2), keep=True)
    assert (change.edits, change.is_kept, change.rows()) == ((), True, None)
    assert len(change.omitted) == 7


@pytest.mark.parametrize("config", [{}, {"dtype": None}, {"dtype": {}}, {"dtype": 32}])
def test_what_says_nothing_stays(config: dict[str, Any]) -> None:
    """As a config without a dtype does."""
    assert edits(changed(config, Casting("F32"), range(2))) == {}


def test_scales_of_a_cache_that_nothing_describes() -> None:
    """They stay with a note, and without one as long as weights are quantized."""
    said = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [64, 64]}}
    dequantized = changed(said, Casting(dequantize="BF16"), quantized=True)
    assert any("self_attn.k_scale (3) stay" in note for note in dequantized.notes)
    part = Casting(dequantize="BF16", skip=("*layers.0.*",))
    assert not any("k_scale" in note for note in changed(said, part, quantized=True).notes)
    again = changed(said, Casting(dequantize="BF16", quantize="fp8-block"), quantized=True)
    assert "kv_cache_scheme" not in edits(again)["quantization_config"]
    assert any("self_attn.k_scale (3) stay" in note for note in again.notes)
    kept = changed(said, Casting(dequantize="BF16"), quantized=True, keep=True)
    assert not any("k_scale" in note for note in kept.notes)
