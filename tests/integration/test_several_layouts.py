"""Experts that are apart in one layer and fused in the next stay so if nobody names a layout."""

from pathlib import Path
from typing import Any

import pytest
import torch
from folders import two_shards, write_checkpoint
from fused_by_hand import CONFIG, fused, source_tensors
from reference import read, same_bytes

import streamconv
from streamconv.errors import PlanRefused

PATTERN = "model.layers.*.mlp."


@pytest.fixture
def src(tmp_path: Path) -> Path:
    """Layer 0 is per-expert, layer 1 fused."""
    apart = {k: v for k, v in source_tensors().items() if ".layers.2." not in k}
    second = "model.layers.1."
    kept = {name: each for name, each in apart.items() if not name.startswith(second)}
    whole = fused(source_tensors())
    kept |= {name: each for name, each in whole.items() if name.startswith(second)}
    return write_checkpoint(tmp_path / "src", two_shards(kept), CONFIG)


@pytest.mark.parametrize("options", [{}, {"pass_through": True}], ids=str)
def test_it_opens_as_it_is_stored(src: Path, options: Any) -> None:
    """The record that goes with it names no layout for such experts."""
    with streamconv.open(src, **options) as lazy:
        assert same_bytes(lazy.get_tensors(), read(src)) == []
        assert PATTERN not in lazy.metadata()["streamconv"]


def test_it_loads_into_a_module_of_its_names(src: Path) -> None:
    stored = read(src)
    module = torch.nn.Module()
    for name, value in stored.items():
        place = module
        *path, last = name.split(".")
        for each in path:
            if not hasattr(place, each):
                place.add_module(each, torch.nn.Module())
            place = getattr(place, each)
        place.register_parameter(last, torch.nn.Parameter(torch.zeros_like(value), False))
    streamconv.load(module, src)
    assert same_bytes(module.state_dict(), stored) == []


def test_it_is_written_as_it_is_if_it_may_be(src: Path, tmp_path: Path) -> None:
    """The result records no layout for such experts, and is converted like the source."""
    place = tmp_path / "kept"
    with pytest.raises(PlanRefused, match="per-expert and fused") as caught:
        streamconv.convert(src, place, to="same", format="safetensors", max_shard_size="1kB")
    assert "--pass-through" in caught.value.hint
    options: Any = {"pass_through": True, "verify": True, "max_shard_size": "1kB"}
    streamconv.convert(src, place, to="same", **options)
    assert same_bytes(read(place), read(src)) == []
    assert PATTERN not in (place / "streamconv.json").read_text()
    for each in (src, place):
        streamconv.convert(each, tmp_path / f"{each.name}-fused", to="fused")
    fused = (read(tmp_path / f"{name}-fused") for name in ("src", "kept"))
    assert same_bytes(*fused) == []


@pytest.mark.parametrize(("layers", "layout"), [("0:1", "per-expert"), ("1:2", "fused")])
def test_only_the_layers_that_are_kept_count(
    src: Path, tmp_path: Path, layers: str, layout: str
) -> None:
    """Their layout is the one that is recorded."""
    result = streamconv.convert(src, tmp_path / "part", to="same", layers=layers, verify=True)
    assert result.plan.record.stacks[PATTERN].layout == layout
    number = layers[0]
    stored = {k: v for k, v in read(src).items() if f".layers.{1 - int(number)}." not in k}
    assert same_bytes(read(tmp_path / "part"), stored) == []
