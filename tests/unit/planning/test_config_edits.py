"""Which keys of config.json change, and to what, for each cause."""

from dataclasses import replace
from typing import Any

import pytest
from header_models import checkpoint_of, model

from streamconv.checkpoint.casting import Casting
from streamconv.checkpoint.types import Checkpoint
from streamconv.detection.layer_lists import LayerList
from streamconv.formats.json_edit import Edit
from streamconv.planning.config_edits import (
    dtype_edits,
    in_order_of_text,
    layer_edits,
    quantization_paths,
)

LAYERS = LayerList("model.layers.", 6, "text_config", count=4, after=2)


def source(**config: Any) -> Checkpoint:
    return replace(checkpoint_of(model()), config=config)


def test_descriptions_are_found_at_any_depth() -> None:
    config = {"quantization_config": {"a": 1}, "t": {"quantization_config": {}, "quantization": 4}}
    assert [*quantization_paths(config)] == [("quantization_config",), ("t", "quantization_config")]


def test_a_cast_changes_every_dtype() -> None:
    checkpoint = source(
        dtype="float32", text_config={"torch_dtype": "float16"}, vision={"dtype": 3}
    )
    edits = dtype_edits(checkpoint, (LAYERS,), Casting(dtype="BF16"), "BF16")
    assert [*edits] == [
        Edit(("dtype",), "bfloat16"),
        Edit(("text_config", "torch_dtype"), "bfloat16"),
    ]


def test_a_dequantization_changes_the_dtype_of_the_language_model() -> None:
    """Of the sections that describe its layers, and of those around them."""
    checkpoint = source(
        dtype="float16", text_config={"dtype": "float16"}, vision_config={"dtype": "float16"}
    )
    edits = [*dtype_edits(checkpoint, (LAYERS,), Casting(dequantize="BF16"), "BF16")]
    assert [edit.path for edit in edits] == [("dtype",), ("text_config", "dtype")]
    assert [*dtype_edits(checkpoint, (LAYERS,), Casting(dequantize="BF16"), None)] == []


@pytest.mark.parametrize(
    ("stop", "wanted"),
    [
        (2, {"num_hidden_layers": 2, "num_nextn_predict_layers": 0, "layer_types": ["a", "b"]}),
        (5, {"num_nextn_predict_layers": 1}),
        (6, {}),
    ],
)
def test_layers_that_are_left_out(stop: int, wanted: dict[str, Any]) -> None:
    """Their number, that of the layers after them, and lists with an item for each."""
    fields = {
        "num_hidden_layers": 4,
        "num_layers": 9,
        "num_nextn_predict_layers": 2,
        "layer_types": ["a", "b", "c", "d"],
        "moe_layer_freq": [1, 2, 3],
    }
    edits = layer_edits({"text_config": fields}, (LAYERS,), range(stop))
    assert {edit.path[-1]: edit.new for edit in edits} == wanted


def test_edits_follow_the_text() -> None:
    """The last edit of a key counts, and new keys come at the end of their section."""
    config = {"b": {"y": 1, "x": 2}, "a": 3}
    edits = [Edit(("a",), 1), Edit(("b", "z"), 2), Edit(("b", "x"), 3), Edit(("a",), 4)]
    assert in_order_of_text(config, edits) == [
        Edit(("b", "x"), 3),
        Edit(("b", "z"), 2),
        Edit(("a",), 4),
    ]
