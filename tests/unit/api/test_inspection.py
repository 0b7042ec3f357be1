"""What `inspect` returns has names."""

import dataclasses
from pathlib import Path

import pytest
from folders import fused_tensors, qwen_tensors, two_shards, write_checkpoint

import streamconv


def test_the_fields(tmp_path: Path) -> None:
    """Of a checkpoint of known content."""
    config = {"model_type": "qwen3_moe", "num_experts": 3}
    tensors = qwen_tensors()
    found = streamconv.inspect(write_checkpoint(tmp_path, two_shards(tensors), config))
    assert isinstance(found, streamconv.Inspection)
    assert (found.model_type, found.form) == ("qwen3_moe", "hub")
    assert found.family == streamconv.plan(tmp_path).source.family.name  # type: ignore[union-attr]
    assert found.layouts == {"model.layers.*.mlp.": "per-expert"}
    assert [len(stack.modules) for stack in found.stacks] == [2]
    assert not found.refusals
    sizes = {name: len(data) for name, (_, _, data) in tensors.items()}
    assert {name: info.nbytes for name, info in found.checkpoint.tensors.items()} == sizes
    assert found.checkpoint.total_bytes == sum(sizes.values())
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.checkpoint = found.checkpoint  # type: ignore[misc]


def test_experts_that_cannot_be_converted(tmp_path: Path) -> None:
    """Two layouts have these shapes. The reason is there, and no stack."""
    tensors = fused_tensors((3, 4, 12), (3, 6, 4))
    found = streamconv.inspect(write_checkpoint(tmp_path, {"model.safetensors": tensors}, {}))
    assert (found.model_type, found.family, found.form) == ("", None, None)
    assert not found.stacks
    (refusal,) = found.refusals.values()
    assert "fused-interleaved" in refusal.message
