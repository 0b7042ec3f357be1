"""Ways to fill sharded experts of a model from a hub checkpoint, as one rank of a process group.

    torchrun --nproc-per-node 2 benchmarks/distributed_ways.py WAY SOURCE CONVERTED RESULTS

The experts of every layer are fused, divided along the first axis, as FSDP2 and expert parallelism
divide them. SOURCE has them one by one, CONVERTED fused. Each rank writes what it has measured to a
file in RESULTS: seconds, bytes that came from the disk, and the largest anonymous memory while it
loaded, less what it had before, when the shards were there already. `lines` are those of the way.
"""

import inspect
import json
import os
import re
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import safe_open
from safetensors.torch import load_file
from torch.distributed.checkpoint import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

import streamconv.torch

State = dict[str, Any]


def reader(source: Path, converted: Path, model: Any) -> None:
    """Read the shards from the hub checkpoint with `streamconv.torch.StorageReader`."""
    opened = streamconv.torch.StorageReader(source, to="fused")
    dcp.load(model.state_dict(), storage_reader=opened)


def converted(source: Path, converted: Path, model: Any) -> None:
    """Read them with torch's reader from a checkpoint that was converted before."""
    opened = HuggingFaceStorageReader(str(converted))
    dcp.load(model.state_dict(), storage_reader=opened)


def by_hand(source: Path, converted: Path, model: Any) -> None:
    """Read the experts of the shards with torch's reader, into views that are made by hand."""
    views = {}
    for name, tensor in model.state_dict().items():
        module, _, kind = name.rpartition(".")
        local = tensor.to_local()
        for own in range(local.shape[0]):
            expert = f"{module}.{own + dist.get_rank() * local.shape[0]}"
            if kind == "gate_up_proj":
                gate, up = local[own].chunk(2)
                views[f"{expert}.gate_proj.weight"] = gate
                views[f"{expert}.up_proj.weight"] = up
            else:
                views[f"{expert}.down_proj.weight"] = local[own]
    dcp.load(views, storage_reader=HuggingFaceStorageReader(str(source)))


def whole(source: Path, converted: Path, model: Any) -> None:
    """Load the whole model in rank 0, stack its experts, and send each rank its shards."""
    state: State = {}
    if dist.get_rank() == 0:
        loaded: State = {}
        for file in sorted(source.glob("*.safetensors")):
            loaded |= load_file(file)
        for module in {name.rsplit(".", 3)[0] for name in loaded}:
            count = len({name for name in loaded if re.match(rf"{module}\.\d+\.up_proj", name)})
            gate, up, down = (
                torch.stack([loaded.pop(f"{module}.{e}.{part}_proj.weight") for e in range(count)])
                for part in ("gate", "up", "down")
            )
            state[f"{module}.gate_up_proj"] = torch.cat([gate, up], dim=1)
            state[f"{module}.down_proj"] = down
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(model, state, options=options)


WAYS: dict[str, Callable[[Path, Path, Any], None]] = {
    way.__name__: way for way in (reader, converted, by_hand, whole)
}


def lines(way: str) -> int:
    """Return the lines of code of a way, without its signature and docstring."""
    body = inspect.getsource(WAYS[way]).partition('"""\n')[2]
    return len([line for line in body.splitlines() if line.strip()])


def sharded(folder: Path) -> torch.nn.Module:
    """Return a model of the tensors in a folder, divided among the ranks, all zeros."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = torch.nn.Module()
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - it is no dict
                shape = opened.get_slice(name).get_shape()
                local = torch.zeros(shape[0] // mesh.size(), *shape[1:], dtype=torch.bfloat16)
                place = model
                *path, leaf = name.split(".")
                for step in path:
                    if not hasattr(place, step):
                        place.add_module(step, torch.nn.Module())
                    place = place.get_submodule(step)
                tensor = DTensor.from_local(local, mesh, [Shard(0)], run_check=False)
                place.register_parameter(leaf, torch.nn.Parameter(tensor, requires_grad=False))
    return model


def anonymous() -> int:
    """Return the bytes of memory that this process has for itself alone."""
    text = Path("/proc/self/status").read_text()
    return int(re.findall(r"RssAnon:\s+(\d+)", text)[0]) * 1024


def from_disk() -> int:
    """Return the bytes that this process has had read from the disk, by maps too."""
    return int(re.findall(r"\bread_bytes: (\d+)", Path("/proc/self/io").read_text())[0])


def main() -> None:
    """Do it in one way, and write down what it took."""
    way, source, fused, results = sys.argv[1], *map(Path, sys.argv[2:])
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    model = sharded(fused)
    ended = threading.Event()
    before = peak = anonymous()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.005):
            peak = max(peak, anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    dist.barrier()
    begin, read = time.perf_counter(), from_disk()
    WAYS[way](source, fused, model)
    dist.barrier()
    facts = {"seconds": time.perf_counter() - begin, "read": from_disk() - read}
    ended.set()
    watcher.join()
    facts |= {"peak": peak - before, "lines": lines(way)}
    check(model, fused)
    (results / f"{way}-{dist.get_rank()}.json").write_text(json.dumps(facts))
    dist.barrier()
    os._exit(0)


def check(model: torch.nn.Module, fused: Path) -> None:
    """Compare the shards of this rank with the converted checkpoint."""
    state = model.state_dict()
    for file in fused.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - it is no dict
                local = state[name].to_local()
                first = dist.get_rank() * local.shape[0]
                wanted = opened.get_slice(name)[first : first + local.shape[0]]
                assert torch.equal(local.view(torch.int16), wanted.view(torch.int16)), name


if __name__ == "__main__":
    main()
