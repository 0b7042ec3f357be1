"""Tensors that are relayed are those of the converted file, whatever family, form and layout."""

import itertools
import json
import random
from pathlib import Path

import pytest
import reference
import torch
from family_headers import checkpoint_in_form
from relaid import KINDS, experts, relaid
from safetensors.torch import save_file

import streamconv
from streamconv.catalog.catalog import default_catalog
from streamconv.checkpoint.types import Checkpoint

CATALOG = default_catalog()
DTYPES = {"BF16": torch.bfloat16, "F32": torch.float32}
PAIRS = [
    (name, source, target)
    for name, family in CATALOG.families.items()
    if not family.refused
    for source, target in [*itertools.permutations(family.forms, 2), ("hub", "stacked")]
]


def random_tensors(checkpoint: Checkpoint) -> reference.Tensors:
    """Tensors with these headers, of random bytes."""
    return {
        name: torch.randint(0, 256, (info.nbytes,), dtype=torch.uint8)
        .view(DTYPES[info.dtype])
        .reshape(info.shape)
        for name, info in checkpoint.tensors.items()
    }


def write(folder: Path, tensors: reference.Tensors, config: dict[str, object]) -> Path:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(("name", "source", "target"), PAIRS, ids=map("-".join, PAIRS))
def test_as_in_the_converted_file(name: str, source: str, target: str, tmp_path: Path) -> None:
    """Or refused, if the conversion of the file is."""
    family = CATALOG.families[name]
    checkpoint, _ = checkpoint_in_form(family, family.forms[source])
    tensors, config = random_tensors(checkpoint), dict(checkpoint.config)
    folder = write(tmp_path / "source", tensors, config)
    emitted = reference.by_layer(tensors, random.Random(name))
    relayed = streamconv.relay(emitted, source=source, to=target, config=config)
    try:
        streamconv.convert(folder, tmp_path / "out", to=target, source_layout=source, copy=True)
    except streamconv.PlanRefused as refusal:
        with pytest.raises(streamconv.PlanRefused) as caught:
            dict(relayed)
        assert caught.value.message[:30] == refusal.message[:30]
        return
    assert reference.same_bytes(reference.read(tmp_path / "out"), dict(relayed)) == []


@pytest.mark.parametrize("kind", KINDS)
def test_quantized_experts_in_any_order(kind: str) -> None:
    """Scales go with their weights, whichever comes first: to what the formulas give."""
    make, layouts = KINDS[kind]
    torch.manual_seed(7)
    made = experts(make)
    config = {
        "model_type": "in_no_family",
        "num_experts": len(made),
        **made[0]["gate_proj"].config,
    }
    numbers = random.Random(kind)
    for source, target in itertools.permutations(("per-expert", "fused", layouts[-1]), 2):
        emitted = list(relaid(made, source).items())
        numbers.shuffle(emitted)
        relayed = streamconv.relay(emitted, source=source, to=target, config=config)
        assert reference.same_bytes(relaid(made, target), dict(relayed)) == [], (source, target)
