"""Checkpoints of true size, without their data: what plans say of them, and the memory of a run."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import truesize

import streamconv

GIB = 2**30


@pytest.mark.parametrize(
    ("model", "tensors", "gib", "merged_tensors"),
    [
        ("qwen3-30b-a3b", 18_867, 56.87, 18_867 - 48 * (3 * 128 - 2)),
        ("qwen3-omni-30b-a3b", 28_010, 65.68, 28_010 - 48 * (3 * 128 - 2)),
        ("glm-4.5v", 18_106, 200.63, 18_106 - 45 * (3 * 128 - 2)),
    ],
)
def test_plans_show_what_the_hub_shows(
    model: str, tensors: int, gib: float, merged_tensors: int, tmp_path: Path
) -> None:
    """Tensors and bytes of three models as published, and of what becomes of them."""
    truesize.write(model, tmp_path / model)
    plan = streamconv.plan(tmp_path / model)
    assert len(plan.checkpoint.tensors) == tensors
    assert round(plan.checkpoint.total_bytes / GIB, 2) == gib
    assert plan.data_bytes == plan.checkpoint.total_bytes
    assert sum(len(shard.steps) for shard in plan.shards) == merged_tensors


def test_a_model_of_a_trillion_parameters(tmp_path: Path) -> None:
    """Kimi-K2 is in no family yet: its experts are found by their names, 60 layers of 384.

    Two workers transpose them in 240 MB; less than one expert's projections is refused.
    """
    truesize.write("kimi-k2", tmp_path / "kimi")
    planned = dry_run(tmp_path / "kimi", "--max-memory", "240MB", "--json")
    plan = json.loads(planned.stdout)
    (stack,) = plan["source"]["stacks"]
    assert (stack["layers"], stack["experts"], stack["layout"]) == (60, 384, "per-expert")
    assert plan["source"]["tensors"] == 70_036
    assert plan["memory"]["source_buffer_bytes"] == 2 * 2048 * 7168 * 2
    assert plan["memory"]["jobs"] == 2
    assert plan["memory"]["projected_peak_bytes"] <= 240 * 10**6
    refused = dry_run(tmp_path / "kimi", "--max-memory", "80MB")
    assert refused.returncode == 4
    assert "experts.gate_up_proj needs 58.7 MB at once" in refused.stderr


def dry_run(source: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """A plan of transposing `source`, in a process of its own; ends with 7 on a small disk."""
    command = [sys.executable, "-m", "streamconv", "merge", str(source), str(source) + "-merged"]
    return subprocess.run(
        [*command, "--dry-run", "--to", "fused-transposed", *options],
        check=False,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("memory", [None, "70MB", "62MB"])
def test_measured_memory_is_what_the_plan_projects(memory: str | None, tmp_path: Path) -> None:
    """The peak of a whole process, imports included, stays within the projection and near it."""
    truesize.write("qwen3-30b-a3b", tmp_path / "source", layers=1)
    limit = ["--max-memory", memory] if memory else []
    command = [sys.executable, "-m", "streamconv", "merge", "source", "out", "--json", *limit]
    done = subprocess.run(
        [*command, "--to", "fused-transposed"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    result = json.loads(done.stdout)
    measured, projected = result["peak_memory_bytes"], result["projected_peak_bytes"]
    assert measured <= projected
    assert measured >= 0.75 * projected
    if memory:
        assert projected <= int(memory.removesuffix("MB")) * 10**6


def test_a_dcp_of_true_size_takes_no_more(tmp_path: Path) -> None:
    """To one and back from it: within the projection, and below what is promised of Qwen3-30B."""
    truesize.write("qwen3-30b-a3b", tmp_path / "source", layers=1, only="experts")
    for words in (
        ["merge", "source", "dcp", "--format", "dcp", "--to", "fused-transposed"],
        ["split", "dcp", "back"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "streamconv", *words, "--json"],
            cwd=tmp_path,
            check=True,
            capture_output=True,
            text=True,
        )
        result = json.loads(done.stdout)
        assert result["peak_memory_bytes"] <= result["projected_peak_bytes"] <= 100 * 10**6
    (written,) = (tmp_path / "dcp").glob("*.distcp")
    assert written.stat().st_size > 128 * 3 * 768 * 2048 * 2


@pytest.mark.parametrize(
    "words",
    [
        ["split", "merged", "out"],
        ["split", "merged", "out", "--verify", "--sha256"],
        ["convert", "source", "out", "--to", "per-expert", "--format", "dcp"],
        ["merge", "source", "out", "--verify"],
    ],
    ids=" ".join,
)
def test_many_small_tensors_are_projected(words: list[str], tmp_path: Path) -> None:
    """What headers, index and verification take for each of 20,000 tensors is in the plan."""
    write_small(tmp_path / "source", layers=18, experts=384, merged=False)
    write_small(tmp_path / "merged", layers=18, experts=384, merged=True)
    done = subprocess.run(
        [sys.executable, "-m", "streamconv", *words, "--json"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    result = json.loads(done.stdout)
    measured, projected = result["peak_memory_bytes"], result["projected_peak_bytes"]
    assert measured <= projected
    assert projected <= max(1.25 * measured, measured + 30 * 10**6)


def write_small(folder: Path, *, layers: int, experts: int, merged: bool) -> None:
    """A checkpoint of many experts, each of a few zeros."""
    folder.mkdir()
    fields: dict[str, object] = {}
    end = 0
    for layer in range(layers):
        prefix = f"model.layers.{layer}.mlp.experts."
        rows = {f"{prefix}gate_up_proj": (experts, 4, 3), f"{prefix}down_proj": (experts, 3, 2)}
        if not merged:
            rows = {
                f"{prefix}{expert}.{name}.weight": shape
                for expert in range(experts)
                for name, shape in (
                    ("gate_proj", (2, 3)),
                    ("up_proj", (2, 3)),
                    ("down_proj", (3, 2)),
                )
            }
        for name, shape in rows.items():
            nbytes = 2 * math.prod(shape)
            offsets = (end, end + nbytes)
            fields[name] = {"dtype": "BF16", "shape": shape, "data_offsets": offsets}
            end += nbytes
    header = json.dumps(fields).encode()
    length = len(header).to_bytes(8, "little")
    (folder / "model.safetensors").write_bytes(length + header + bytes(end))
    config = {"model_type": "qwen3_moe", "num_experts": experts}
    (folder / "config.json").write_text(json.dumps(config))
