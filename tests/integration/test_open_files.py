"""Checkpoints with more files than a process may open, in processes with a low limit."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from dcp_folders import write_dcp
from folders import Tensors, qwen_tensors, read_checkpoint, write_checkpoint


def run(soft: int, hard: int, *args: object) -> None:
    """Run the command line with these limits of open files."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    done = subprocess.run(
        [sys.executable, "-m", "streamconv", *map(str, args)],
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def many_files(folder: Path, tensors: Tensors) -> Path:
    """Each tensor in a shard of its own, in an order in which a layer's experts lie far apart."""
    names = sorted(tensors, key=lambda name: name[::-1])
    shards = {f"{k:04}.safetensors": {name: tensors[name]} for k, name in enumerate(names)}
    return write_checkpoint(folder, shards, {"model_type": "qwen3_moe", "num_experts": 60})


def many_chunks(folder: Path, tensors: Tensors) -> Path:
    """A DCP of these in a file for each chunk."""
    cut: dict[str, tuple[torch.Tensor, list[list[int]]]] = {}
    for name, (_, shape, data) in tensors.items():
        whole = torch.frombuffer(bytearray(data), dtype=torch.bfloat16).reshape(shape)
        cut[name] = whole, [[2], *([] for _ in shape[1:])]
    write_dcp(folder, cut, files=300)
    (folder / "config.json").write_text('{"model_type": "qwen3_moe", "num_experts": 60}')
    return folder


@pytest.mark.parametrize(("soft", "hard"), [(40, 4096), (40, 40)])
@pytest.mark.parametrize("kind", ["safetensors", "dcp"])
def test_more_files_than_may_be_open(tmp_path: Path, kind: str, soft: int, hard: int) -> None:
    """364 shards, or 300 files of a DCP, through few descriptors, there and back."""
    tensors = qwen_tensors(experts=60)
    make = many_files if kind == "safetensors" else many_chunks
    source = make(tmp_path / "source", tensors)
    assert len(list(source.iterdir())) >= 300
    run(soft, hard, "merge", source, tmp_path / "merged", "--verify", "-j", 4)
    run(soft, hard, "verify", source, tmp_path / "merged")
    run(soft, hard, "split", tmp_path / "merged", tmp_path / "again", "--max-shard-size", 1000)
    run(soft, hard, "verify", tmp_path / "merged", tmp_path / "again")
    assert read_checkpoint(tmp_path / "again") == tensors
