"""What is written is read by torch.distributed.checkpoint itself, and equals the reference."""

import math
import pickle
from pathlib import Path
from random import Random
from typing import Any

import checkpoints
import pytest
import reference
import torch
from dcp_folders import stock
from dcp_jobs import FAMILIES, modes, run_ranks
from folders import tensor, write_checkpoint
from safetensors.torch import save_file

import streamconv
from streamconv.errors import PlanRefused, UsageError
from streamconv.formats.safetensors import DTYPE_BITS
from streamconv.formats.torch_archive import TORCH_DTYPES


@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_merged_model_is_read_by_torch(tmp_path: Path, model_type: str) -> None:
    """Flat, with nothing but the checkpoint in the folder; small files, so that there are many."""
    source = FAMILIES[model_type](tmp_path / "hub")
    done = streamconv.merge(source, tmp_path / "dcp", format="dcp", max_shard_size=50_000)
    names = {path.name for path in (tmp_path / "dcp").iterdir()}
    assert names == {".metadata", *(f"__0_{k}.distcp" for k in range(len(done.plan.shards)))}
    assert len(done.plan.shards) > 2
    expected = reference.merge_mindspeed(reference.read(source), model_type)
    assert reference.same_bytes(stock(tmp_path / "dcp"), expected) == []


def test_a_preset_is_what_the_framework_reads(tmp_path: Path) -> None:
    """Nested, with its version, its tracker and its permissions."""
    source = checkpoints.qwen3_omni_moe(tmp_path / "hub")
    target = tmp_path / "trained"
    streamconv.merge(source, target, preset="mindspeed")
    tracker = target / "latest_checkpointed_iteration.txt"
    assert tracker.read_text() == "release"
    state = stock(target / "release")
    assert state.keys() == {"model", "checkpoint_version"}
    assert state["checkpoint_version"] == 3.0
    merged = reference.merge_mindspeed(reference.read(source), "qwen3_omni_moe")
    expected = {f"model.{name}": tensor for name, tensor in merged.items()}
    assert reference.same_bytes(state["model"], expected) == []
    assert modes(target) == {
        ".": 0o750,
        "release": 0o750,
        "release/.metadata": 0o640,
        "release/__0_0.distcp": 0o640,
        "latest_checkpointed_iteration.txt": 0o640,
    }


def test_a_prefix_of_ones_own(tmp_path: Path) -> None:
    """Instead of the preset's; anchored at the start."""
    source = checkpoints.qwen3_moe(tmp_path / "hub")
    streamconv.merge(source, tmp_path / "a", preset="mindspeed", dcp_prefix="")
    assert "model.embed_tokens.weight" in stock(tmp_path / "a" / "release")["model"]
    streamconv.merge(source, tmp_path / "b", format="dcp", hf_prefix="model.", dcp_prefix="net.")
    keys = stock(tmp_path / "b").keys()
    assert {"net.embed_tokens.weight", "lm_head.weight"} <= keys
    assert not any(key.startswith("model.") for key in keys)


def test_ranks_take_what_they_need(tmp_path: Path) -> None:
    """Two processes, DTensors sharded on any axis, FSDP2."""
    source = checkpoints.qwen3_moe(tmp_path / "hub", layers=1)
    streamconv.merge(source, tmp_path / "dcp", format="dcp", max_shard_size=60_000)
    expected = reference.to_layout(reference.read(source), "fused")
    save_file(expected, tmp_path / "expected.safetensors")
    run_ranks("load", tmp_path / "dcp", tmp_path / "expected.safetensors")


def test_every_dtype_is_read_by_torch(tmp_path: Path) -> None:
    """Also scalars and tensors without elements, from several workers."""
    shapes = {"scalar": (), "empty": (0, 3), "hollow": (2, 0), "row": (7,), "box": (2, 3, 5)}
    dtypes = [dtype for dtype in TORCH_DTYPES if dtype != "BOOL"]
    random = Random(0)
    tensors = {
        f"model.{name}.{dtype}": (
            dtype,
            shape,
            random.randbytes(math.prod(shape) * DTYPE_BITS[dtype] // 8),
        )
        for name, shape in shapes.items()
        for dtype in dtypes
    }
    tensors["model.flags"] = ("BOOL", (3,), b"\1\0\1")
    for expert in range(11):
        for name, shape in (("gate_proj", (6, 4)), ("up_proj", (6, 4)), ("down_proj", (4, 6))):
            key = f"model.layers.0.mlp.experts.{expert}.{name}.weight"
            tensors[key] = tensor(key, "BF16", *shape)
    write_checkpoint(tmp_path / "hub", {"model.safetensors": tensors}, {}, index=False)
    for layout, jobs in (("fused-flat", 1), ("stacked", 3), ("per-expert", 2)):
        target = tmp_path / layout
        streamconv.convert(
            tmp_path / "hub", target, to=layout, format="dcp", max_shard_size=700, jobs=jobs
        )
        found = stock(target)
        for name, (dtype, shape, data) in tensors.items():
            if ".experts." in name and layout != "per-expert":
                continue
            torch_dtype = TORCH_DTYPES[dtype][0].removeprefix("torch.")
            assert found[name].dtype == getattr(torch, torch_dtype)
            assert tuple(found[name].shape) == shape
            assert bytes(found[name].reshape(-1).view(torch.uint8).tolist()) == data


def test_an_expert_is_a_chunk(tmp_path: Path) -> None:
    """Where experts are outermost, so that no reader has to take a whole stack at once."""
    source = checkpoints.qwen3_moe(tmp_path / "hub", experts=13, layers=1)
    for layout, chunks in (("fused", 13), ("fused-flat", 13), ("per-expert", 1)):
        target = tmp_path / layout
        streamconv.convert(source, target, to=layout, format="dcp")
        stored = pickle.loads((target / ".metadata").read_bytes()).state_dict_metadata
        assert {len(t.chunks) for name, t in stored.items() if "experts" in name} == {chunks}
        assert {len(t.chunks) for name, t in stored.items() if "experts" not in name} == {1}


def test_other_files_stay(tmp_path: Path) -> None:
    """And the plan says so."""
    source = checkpoints.qwen3_moe(tmp_path / "hub")
    plan = streamconv.plan(source, format="dcp")
    assert plan.copied == ()
    assert {o.skip_reason for o in plan.others if o.name == "tokenizer.json"} == {
        "a DCP folder holds nothing but weights"
    }
    assert plan.write_bytes == sum(shard.nbytes for shard in plan.shards)


@pytest.mark.parametrize(
    ("prefixes", "fact"),
    [
        ({"hf_prefix": "model.", "dcp_prefix": ""}, "come back from it as"),
        ({"hf_prefix": "model.", "dcp_prefix": "lm_"}, "come back from it as"),
    ],
)
def test_prefixes_without_a_way_back_are_refused(tmp_path: Path, prefixes: Any, fact: str) -> None:
    """A name that the map leaves alone must not look like one that it made."""
    source = checkpoints.qwen3_moe(tmp_path / "hub")
    with pytest.raises(PlanRefused, match=fact):
        streamconv.merge(source, tmp_path / "dcp", format="dcp", **prefixes)
    assert not (tmp_path / "dcp").exists()


def test_two_names_for_one_key_are_refused(tmp_path: Path) -> None:
    """Whichever of them would win."""
    tensors = {name: tensor(name, "BF16", 2) for name in ("a.x", "b.x")}
    tensors |= {
        f"experts.0.{name}.weight": tensor(name, "BF16", *shape)
        for name, shape in (("gate_proj", (2, 3)), ("up_proj", (2, 3)), ("down_proj", (3, 2)))
    }
    write_checkpoint(tmp_path / "hub", {"model.safetensors": tensors}, {}, index=False)
    with pytest.raises(PlanRefused, match=r"would both have the key b\.x"):
        streamconv.merge(
            tmp_path / "hub", tmp_path / "dcp", format="dcp", hf_prefix="a.", dcp_prefix="b."
        )


def test_a_dtype_that_torch_lacks_is_refused(tmp_path: Path) -> None:
    """By name, before anything is written."""
    tensors = {"scale": ("F6_E2M3", (4,), b"\0\0\0")}
    tensors |= {
        f"experts.0.{name}.weight": tensor(name, "BF16", *shape)
        for name, shape in (("gate_proj", (2, 3)), ("up_proj", (2, 3)), ("down_proj", (3, 2)))
    }
    write_checkpoint(tmp_path / "hub", {"model.safetensors": tensors}, {}, index=False)
    with pytest.raises(PlanRefused, match="scale is F6_E2M3"):
        streamconv.merge(tmp_path / "hub", tmp_path / "dcp", format="dcp")


def test_the_same_conversion_gives_the_same_bytes(tmp_path: Path) -> None:
    """Whoever runs it, with however many workers: no times and no paths."""
    source = checkpoints.qwen3_moe(tmp_path / "hub")
    for jobs in (1, 3):
        streamconv.merge(source, tmp_path / f"{jobs}", format="dcp", jobs=jobs)
    for path in (tmp_path / "1").iterdir():
        assert path.read_bytes() == (tmp_path / "3" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("options", "fact"),
    [({"format": "zip"}, "no format called"), ({"preset": "mind"}, "no preset called")],
)
def test_a_target_that_does_not_exist(tmp_path: Path, options: Any, fact: str) -> None:
    """It is a usage error."""
    source = checkpoints.qwen3_moe(tmp_path / "hub")
    with pytest.raises(UsageError, match=fact):
        streamconv.plan(source, **options)
