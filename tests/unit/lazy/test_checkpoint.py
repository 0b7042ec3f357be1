"""An open checkpoint lists, finds and streams its tensors as safetensors would."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import INDEX, qwen_tensors, tensor, two_shards, write_checkpoint
from fused_by_hand import CONFIG
from safetensors import SafetensorError, safe_open

import streamconv
from streamconv.errors import UsageError

GATE_UP = "model.layers.0.mlp.experts.gate_up_proj"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tensors = {**qwen_tensors(), "model.wide": tensor("model.wide", "F32", 3)}
    return write_checkpoint(tmp_path / "source", two_shards(tensors), CONFIG)


def opened(folder: Path) -> Any:
    return streamconv.open(folder, "fused", framework="np")


def test_names_are_those_of_a_converted_file(folder: Path, tmp_path: Path) -> None:
    """In both orders, as safetensors itself gives them."""
    streamconv.convert(folder, tmp_path / "out", to="fused")
    with opened(folder) as lazy, safe_open(tmp_path / "out/model.safetensors", "np") as file:
        assert lazy.keys() == list(lazy) == sorted(file.keys())
        assert lazy.offset_keys() == list(file.offset_keys())
        assert lazy.metadata() == file.metadata()
        assert len(lazy) == len(lazy.keys())
    assert not (tmp_path / "out" / INDEX).exists()


def test_what_is_not_there(folder: Path) -> None:
    with opened(folder) as lazy:
        assert GATE_UP in lazy
        assert "x" not in lazy
        assert 3 not in lazy
        with pytest.raises(KeyError):
            lazy["x"]
        with pytest.raises(SafetensorError, match="File does not contain tensor x"):
            lazy.get_slice("x")
        with pytest.raises(TypeError, match=r"name"):
            lazy[3]


def test_a_stream_has_every_tensor_in_the_order_of_the_source(folder: Path) -> None:
    with opened(folder) as lazy:
        streamed = list(lazy.stream())
        places = [lazy[name].place for name, _ in streamed]
        assert places == sorted(places)
        assert {name for name, _ in streamed} == set(lazy)
        whole = lazy.get_tensors()
        assert all(np.array_equal(whole[name], found) for name, found in streamed)


def test_nothing_is_read_before_it_is_asked_for(folder: Path) -> None:
    with opened(folder) as lazy:
        for name, each in lazy.items():
            assert each.name == name
            assert each.shape
        assert lazy.bytes_read == 0
        lazy.get_tensor("model.norm.weight")
        assert lazy.bytes_read == 8
        assert repr(lazy).startswith("<LazyCheckpoint of ")


def test_a_closed_checkpoint_still_lists(folder: Path) -> None:
    lazy = opened(folder)
    kept = lazy.get_tensor("model.norm.weight")
    lazy.close()
    lazy.close()
    assert GATE_UP in lazy.keys()  # noqa: SIM118 - the list, not the checkpoint
    assert kept.shape == (4,)
    with pytest.raises(UsageError, match="the checkpoint is closed"):
        lazy.get_tensor(GATE_UP)
