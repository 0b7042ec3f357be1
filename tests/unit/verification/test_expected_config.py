"""Values that config.json of an output has to have, member by member."""

from typing import Any

import pytest

from streamconv.detection.layer_lists import LayerList
from streamconv.verification.expected_config import AS_IN_SOURCE, ExpectedConfig, Path

LAYERS = LayerList("model.layers.", 3, "", 3)
TO_FP32 = ExpectedConfig("float32", None, True, ())
DEQUANTIZED = ExpectedConfig("bfloat16", frozenset({()}), False, ())
CUT = ExpectedConfig(None, None, True, ((("text_config",), LAYERS, 2),))


@pytest.mark.parametrize(
    ("expected", "path", "old", "new"),
    [
        (AS_IN_SOURCE, ("dtype",), "float16", "float16"),
        (TO_FP32, ("dtype",), "float16", "float32"),
        (TO_FP32, ("vision_config", "torch_dtype"), "float16", "float32"),
        (TO_FP32, ("dtype",), 16, 16),
        (TO_FP32, ("quantization_config", "dtype"), "fp8", "fp8"),
        (TO_FP32, ("parts", 0, "dtype"), "float16", "float16"),
        (DEQUANTIZED, ("dtype",), "float16", "bfloat16"),
        (DEQUANTIZED, ("vision_config", "dtype"), "float16", "float16"),
        (CUT, ("text_config", "num_hidden_layers"), 3, 2),
        (CUT, ("text_config", "num_hidden_layers"), 4, 4),
        (CUT, ("num_hidden_layers",), 3, 3),
        (CUT, ("text_config", "layer_types"), ["a", "b", "c"], ["a", "b"]),
        (CUT, ("text_config", "layer_types"), ["a", "b"], ["a", "b"]),
    ],
)
def test_a_value(expected: ExpectedConfig, path: Path, old: Any, new: Any) -> None:
    """Changes if its key is in the table, in a section that is meant, and it says the old fact."""
    assert expected.value(path, old) == new


def test_descriptions_of_codes_are_gone_with_the_codes() -> None:
    """With all that is in them, and their own files."""
    config = {"quantization_config": {"ignore": ["a"]}, "dtype": "bfloat16"}
    assert DEQUANTIZED.removes(("quantization_config",), config)
    assert DEQUANTIZED.removes(("quantization_config", "ignore", 0), config)
    assert not DEQUANTIZED.removes(("dtype",), config)
    assert not TO_FP32.removes(("quantization_config",), config)
    assert "hf_quant_config.json" in DEQUANTIZED.left_out
    assert TO_FP32.left_out == frozenset()
