"""Which lists of modules are the layers of a model, and which section counts them."""

from typing import Any

import pytest

from streamconv.catalog.catalog import default_catalog
from streamconv.detection.layer_lists import find_layer_lists

TEXT = "text_config"


def names(**sizes: int) -> list[str]:
    """Return tensors of lists of modules, by the beginnings of their names."""
    return [f"{path}.{k}.weight" for path, n in sizes.items() for k in range(n)] + ["norm.weight"]


@pytest.mark.parametrize(
    ("sizes", "config", "wanted"),
    [
        ({"layers": 4}, {"num_hidden_layers": 4}, [("layers.", "", 4, 0)]),
        ({"layers": 4}, {}, [("layers.", None, None, 0)]),
        ({"layers": 4}, {"num_hidden_layers": 9}, [("layers.", "", 9, 0)]),
        ({"layers": 4, "blocks": 2}, {TEXT: {"n_layer": 4}}, [("layers.", TEXT, 4, 0)]),
        (
            {"layers": 4, "blocks": 2},
            {"num_hidden_layers": 3, "num_nextn_predict_layers": 1},
            [("layers.", "", 3, 1)],
        ),
        ({"layers": 4, "blocks": 4}, {"num_hidden_layers": 4}, []),
        ({"layers": 4, "blocks": 2}, {"num_hidden_layers": 5}, []),
        ({"layers": 4, "blocks": 2}, {"num_hidden_layers": "4", TEXT: 3}, []),
        ({}, {"num_hidden_layers": 4}, []),
    ],
)
def test_layers_without_experts(
    sizes: dict[str, int], config: dict[str, Any], wanted: list[tuple[Any, ...]]
) -> None:
    """The one list that config.json counts, or the one that there is; never one of two alike."""
    found = find_layer_lists((), names(**sizes), config, None)
    assert [(e.path, e.section, e.count, e.after) for e in found] == wanted


def test_layers_with_experts() -> None:
    """Every list that has some, in the section that the family names."""
    family = default_catalog().find_family("qwen3_omni_moe")
    sizes = {"thinker.model.layers": 3, "talker.model.layers": 3, "visual.blocks": 3}
    patterns = [f"{stack}.model.layers.*.mlp." for stack in ("thinker", "talker")]
    config = {
        "thinker_config": {TEXT: {"num_hidden_layers": 3}},
        "talker_config": {TEXT: {"num_hidden_layers": 7}},
    }
    found = find_layer_lists(patterns, names(**sizes), config, family)
    assert [(e.path, e.section, e.count, e.layers) for e in found] == [
        ("thinker.model.layers.", f"thinker_config.{TEXT}", 3, 3),
        ("talker.model.layers.", f"talker_config.{TEXT}", 7, 3),
    ]
