"""What verification says of a config.json that is not as it has to be, found on its own path."""

import json
from pathlib import Path
from typing import Any

import checkpoints
import pytest

import streamconv
from streamconv.catalog.checkpoint_files import CONFIG
from streamconv.detection.layer_lists import LayerList
from streamconv.verification.config_file import config_differences, has_to_change
from streamconv.verification.expected_config import AS_IN_SOURCE, ExpectedConfig

SOURCE = """{
  "dtype": "bfloat16", "eps": 1e-06,
  "layer_types": ["full", "sliding", "full"],
  "num_hidden_layers": 3,
  "quantization_config": {"dtype": "fp8", "ignore": ["lm_head", {"a": []}]},
  "text_config": {"torch_dtype": "bfloat16", "hidden_size": 8}
}
"""
LAYERS = LayerList("model.layers.", 3, "", 3)
TO_FP32 = ExpectedConfig("float32", None, True, ())
DEQUANTIZED = ExpectedConfig("bfloat16", frozenset({()}), False, ())
CUT = ExpectedConfig(None, None, True, (((), LAYERS, 2),))


def replaced(*pairs: tuple[str, str]) -> str:
    text = SOURCE
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    return text


AS_FP32 = replaced(('"bfloat16"', '"float32"'))
WITHOUT = replaced(
    ('  "quantization_config": {"dtype": "fp8", "ignore": ["lm_head", {"a": []}]},\n', "")
)
OF_TWO = replaced((', "full"]', "]"), ('layers": 3', 'layers": 2'))
RIGHT: list[tuple[ExpectedConfig, str]] = [
    (AS_IN_SOURCE, SOURCE),
    (TO_FP32, AS_FP32),
    (DEQUANTIZED, WITHOUT),
    (CUT, OF_TWO),
]


@pytest.mark.parametrize(("expected", "output"), RIGHT)
def test_what_is_right(expected: ExpectedConfig, output: str) -> None:
    assert list(config_differences(SOURCE, output, expected)) == []
    assert has_to_change(SOURCE.encode(), expected) == (expected is not AS_IN_SOURCE)


@pytest.mark.parametrize(
    ("expected", "output", "says"),
    [
        (TO_FP32, SOURCE, 'says dtype = "bfloat16", not "float32"'),
        (TO_FP32, AS_FP32.replace('"torch_dtype": "float32"', '"torch_dtype": "bfloat16"'), "text"),
        (TO_FP32, AS_FP32.replace("1e-06", "0.000001"), "says eps = 0.000001, not 1e-06"),
        (TO_FP32, AS_FP32.replace("lm_head", "head"), "quantization_config.ignore.0"),
        (TO_FP32, AS_FP32.replace('"fp8"', '"float32"'), "quantization_config.dtype"),
        (TO_FP32, AS_FP32.replace("  ", "    "), "white space"),
        (TO_FP32, AS_FP32[:-1] + "\n\n", "white space"),
        (TO_FP32, json.dumps(json.loads(AS_FP32)), "white space"),
        (TO_FP32, AS_FP32.replace('"eps"', '"\\u0065ps"'), "before eps"),
        (DEQUANTIZED, WITHOUT.replace("  ", "   "), "white space"),
        (TO_FP32, json.dumps(dict(sorted(json.loads(AS_FP32).items(), reverse=True))), "where"),
        (
            TO_FP32,
            AS_FP32.replace(', "hidden_size": 8', ""),
            "the end of text_config where text_config.hidden_size",
        ),
        (
            TO_FP32,
            AS_FP32.replace("8}", '8, "x": 1}'),
            "has text_config.x where the end of text_config has to be",
        ),
        (DEQUANTIZED, SOURCE, "has quantization_config where text_config has to be"),
        (DEQUANTIZED, WITHOUT.replace('"torch_dtype": "bfloat16"', '"torch_dtype": "x"'), "says"),
        (CUT, SOURCE, "layer_types.2"),
        (CUT, OF_TWO.replace('layers": 2', 'layers": 3'), "num_hidden_layers"),
        (CUT, OF_TWO.replace(', "sliding"', ""), "layer_types.1"),
        (AS_IN_SOURCE, AS_FP32, "dtype"),
        (AS_IN_SOURCE, WITHOUT, "quantization_config"),
        (AS_IN_SOURCE, "{}", "has its end where dtype has to be"),
        (AS_IN_SOURCE, "[]", "its content"),
    ],
)
def test_what_is_wrong(expected: ExpectedConfig, output: str, says: str) -> None:
    """By the key, with both values."""
    differences = list(config_differences(SOURCE, output, expected))
    assert [difference.subject for difference in differences] == [CONFIG]
    assert says in differences[0].detail


@pytest.mark.parametrize(
    "damage",
    [
        lambda config: config.update(dtype="bfloat16"),
        lambda config: config.update(vocab_size=65),
        lambda config: config.pop("layer_types"),
    ],
)
def test_a_damaged_result_is_found(tmp_path: Path, damage: Any) -> None:
    """With its source alone: the manifest would know it from the digest."""
    source = checkpoints.qwen3(tmp_path / "source", shard_size="1GB")
    out = tmp_path / "out"
    streamconv.convert(source, out, dtype="fp32", layers="0:2")
    assert streamconv.verify(source, out).ok
    config = json.loads((out / CONFIG).read_text())
    damage(config)
    (out / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    found = streamconv.verify(source, out)
    assert [difference.subject for difference in found.differences] == [CONFIG]


def test_a_description_that_is_left_is_found(tmp_path: Path) -> None:
    """hf_quant_config.json next to dequantized weights, and its loss next to quantized ones."""
    original = checkpoints.qwen3(tmp_path / "original", shard_size="1GB")
    checkpoints.quantized(original, tmp_path / "fp8")
    (tmp_path / "fp8/hf_quant_config.json").write_text("{}")
    streamconv.convert(tmp_path / "fp8", tmp_path / "out", dequantize="bf16")
    assert streamconv.verify(tmp_path / "fp8", tmp_path / "out").ok
    (tmp_path / "out/hf_quant_config.json").write_text("{}")
    found = streamconv.verify(tmp_path / "fp8", tmp_path / "out")
    assert [d.subject for d in found.differences] == ["hf_quant_config.json"]
    streamconv.convert(tmp_path / "fp8", tmp_path / "copy", copy=True)
    (tmp_path / "copy/hf_quant_config.json").unlink()
    found = streamconv.verify(tmp_path / "fp8", tmp_path / "copy")
    assert [d.subject for d in found.differences] == ["hf_quant_config.json"]
