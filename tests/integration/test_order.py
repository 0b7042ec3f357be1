"""What is said of a checkpoint does not depend on the order of the tensors in its files."""

import json
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from header_models import Tensors, checkpoint_of, experts

from streamconv.catalog.catalog import default_catalog
from streamconv.detection.detect_all import detect_all
from streamconv.report.checkpoint_json import inspection_fields

PREFIX = "model.layers.{}.mlp."


def mixed() -> Tensors:
    """Three layers, one of them pruned, one in float32."""
    tensors: Tensors = {"lm_head.weight": ("BF16", (5, 6))}
    for layer, (count, dtype) in enumerate([(12, "BF16"), (11, "BF16"), (12, "F32")]):
        prefix = PREFIX.format(layer)
        tensors |= experts(prefix, count, 4, 6, dtype=dtype)
        tensors[f"{prefix}gate.weight"] = (dtype, (count, 6))
    return tensors


def refused() -> Tensors:
    """Experts with companions of no layout."""
    tensors = experts(PREFIX.format(0), 12, 4, 6)
    for name in [*tensors]:
        tensors[f"{name}_offset"] = ("F32", ())
        tensors[f"{name}_zeros"] = ("F32", ())
    return tensors


def packed() -> Tensors:
    """Experts as codes, two in an element."""
    names = {
        name: ("U8", shape) for name, (_, shape) in experts(PREFIX.format(0), 12, 4, 6).items()
    }
    return {n: (d, (shape[0], shape[1] // 2)) for n, (d, shape) in names.items()}


@pytest.mark.parametrize("build", [mixed, refused, packed])
def test_an_inspection_is_the_same(build: Callable[[], Tensors]) -> None:
    checkpoint = replace(checkpoint_of(build()), config={"model_type": "qwen3_moe"})
    seen = set()
    for seed in range(4):
        names = list(checkpoint.tensors)
        random.Random(seed).shuffle(names)
        shuffled = replace(checkpoint, tensors={name: checkpoint.tensors[name] for name in names})
        fields = inspection_fields(shuffled, detect_all(shuffled, default_catalog()))
        seen.add(json.dumps(fields))
    assert len(seen) == 1
    assert fields["stacks"] or fields["refusals"]


def test_a_family_is_called_by_its_model_type() -> None:
    checkpoint = replace(checkpoint_of(mixed()), config={"model_type": "deepseek_v3"})
    fields = inspection_fields(checkpoint, detect_all(checkpoint, default_catalog()))
    assert fields["family"] == "deepseek_v3"
    novel = replace(checkpoint, config={"model_type": "novel"})
    assert inspection_fields(novel, detect_all(novel, default_catalog()))["family"] is None
