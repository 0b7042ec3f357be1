"""Lists of modules that are not quantized, as the libraries which read them understand them."""

from collections.abc import Iterable

import pytest
import torch
from compressed_tensors.utils import is_match
from transformers.quantizers.quantizers_utils import should_convert_module

from streamconv.catalog.encodings import encoding_names, encoding_row
from streamconv.checkpoint.types import Cast, TensorInfo
from streamconv.quantization.quantized_config import (
    dequantized_modules,
    module_of,
    quantized_section,
    unquantized_kind,
    with_exceptions,
)

LAYERS = (1, 2, 10)
QUANTIZED = [
    *(f"model.layers.{n}.self_attn.q_proj" for n in LAYERS),
    *(f"model.layers.{n}.mlp.experts.{e}.up_proj" for n in (10, 2) for e in (0, 1, 10)),
    *(f"model.layers.{n}.mlp.shared_experts.up_proj" for n in (1, 2)),
]
LEFT = [
    "lm_head",
    "model.embed_tokens",
    *(f"model.layers.{n}.mlp.gate" for n in LAYERS),
    *(f"model.layers.1.mlp.experts.{e}.up_proj" for e in (0, 1, 10)),
    "model.layers.10.mlp.shared_experts.up_proj",
    *(f"model.layers.10.mlp.experts.{e}.down_proj" for e in (0, 1, 10)),
]


def tensors(quantized: Iterable[str], left: Iterable[str]) -> list[TensorInfo]:
    found = [TensorInfo(f"{name}.weight", "F8_E4M3", (4, 4), "", 0, 16) for name in quantized]
    found += [TensorInfo(f"{name}.weight", "BF16", (4, 4), "", 0, 32) for name in left]
    # neither a vector nor a scale has a module in the list
    found.append(TensorInfo(f"{QUANTIZED[0]}.weight_scale", "BF16", (4, 1), "", 0, 8))
    return [*found, TensorInfo("model.norm.weight", "BF16", (4,), "", 0, 8)]


def understood(section: dict[str, object], modules: Iterable[str]) -> list[str]:
    """The modules that a library takes for quantized."""
    linear = torch.nn.Linear(4, 4)
    if section["quant_method"] == "fp8":
        listed = section["modules_to_not_convert"]
        return [name for name in modules if should_convert_module(name, listed)]
    return [name for name in modules if is_match(name, linear, ["Linear"], section["ignore"])]


@pytest.mark.parametrize("name", encoding_names())
def test_readers_quantize_the_same_modules(name: str) -> None:
    """Experts of a layer that are left are one entry, unless others of them are quantized."""
    section = quantized_section(encoding_row(name), tensors(QUANTIZED, LEFT))
    assert understood(section, [*QUANTIZED, *LEFT]) == QUANTIZED
    listed = section.get("ignore") or section["modules_to_not_convert"]
    assert len(listed) <= len(LEFT) - 1  # three experts are at most two entries


@pytest.mark.parametrize("method", ["fp8", "compressed-tensors"])
def test_a_longer_list(method: str) -> None:
    """Entries that are there stay first, and none is added twice."""
    key = "modules_to_not_convert" if method == "fp8" else "ignore"
    section = {"quant_method": method, key: ["lm_head"]}
    wanted = ["lm_head", "model.layers.1.mlp.experts"]
    longer = with_exceptions(section, wanted)
    assert longer is not None
    assert longer[key][:2] == wanted
    modules = [
        "lm_head",
        "model.layers.1.mlp.experts.7.up_proj",
        "model.layers.10.mlp.experts.0.w1",
    ]
    assert understood(longer, modules) == modules[2:]
    assert with_exceptions(longer, wanted) == longer


@pytest.mark.parametrize(
    "section",
    [
        {"quant_method": "gptq"},
        {},
        {"quant_method": "fp8", "modules_to_not_convert": "lm_head"},
        {"quant_method": ["fp8"]},
    ],
)
def test_no_list_to_make_longer(section: dict[str, object]) -> None:
    """Of another method, or one that is no list."""
    assert with_exceptions(section, ["lm_head"]) is None


def test_dequantized_modules() -> None:
    """Experts are one module, unless others of that module stay quantized."""
    codes = TensorInfo("a", "F8_E4M3", (4, 4), "", 0, 16)
    decoded = Cast(codes, decoding=object())  # type: ignore[arg-type]
    names = ["l.1.experts.0.up", "l.1.experts.1.up", "l.2.experts.10.up", "l.2.experts.9.up"]
    made = [TensorInfo(f"{n}.weight", "BF16", (4, 4), "", 0, 32, decoded) for n in names]
    made.append(codes._replace(name="l.2.experts.0.up.weight"))
    wanted = ["l.1.experts", "l.2.experts.9.up", "l.2.experts.10.up"]
    assert dequantized_modules(made) == wanted


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("model.layers.0.mlp.experts.3.up_proj.weight", "model.layers.0.mlp.experts"),
        ("model.layers.0.mlp.experts.up_proj", "model.layers.0.mlp.experts"),
        (
            "model.layers.0.mlp.shared_experts.up_proj.weight",
            "model.layers.0.mlp.shared_experts.up_proj",
        ),
        ("head", "head"),
    ],
)
def test_module_of(name: str, module: str) -> None:
    assert module_of(name) == module


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model.embed_tokens.weight", "embedding"),
        ("model.layers.0.mlp.gate.weight", "router"),
        ("model.layers.0.input_layernorm.weight", "norm"),
        ("model.layers.0.linear_attn.conv1d.weight", "convolution"),
        ("model.visual.blocks.0.attn.qkv.weight", "tower"),
        ("model.layers.0.self_attn.q_proj.weight", None),
        ("model.layers.0.mlp.gate_proj.weight", None),
    ],
)
def test_kinds_of_matrices_that_stay(name: str, kind: str | None) -> None:
    assert unquantized_kind(name) == kind
