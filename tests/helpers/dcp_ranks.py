"""What each rank of a process group does with torch.distributed.checkpoint, by torch alone.

`load` reads every tensor of a safetensors file from a DCP, sharded on the first axis,
on the last, replicated, and as parameters under FSDP2, and compares bytes. `save` writes the
tensors of such a file as a training run of several ranks would: each sharded in another way, and as
parameters under FSDP2.
"""

import itertools
import os
import warnings
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_tensor

Tensors = dict[str, torch.Tensor]


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def placed(tensor: torch.Tensor, mesh: DeviceMesh, placement: Placement) -> DTensor:
    """Sharded as asked where it has that axis."""
    fits = not isinstance(placement, Shard) or tensor.dim() > placement.dim
    return distribute_tensor(tensor, mesh, [placement if fits else Replicate()])


def check(name: str, found: DTensor, expected: torch.Tensor) -> None:
    own = distribute_tensor(expected, found.device_mesh, found.placements).to_local()
    assert torch.equal(bits(found.to_local()), bits(own)), f"{name} as {found.placements}"


def under_fsdp(tensors: Tensors, mesh: DeviceMesh) -> dict[str, DTensor]:
    """The state dict of a model with these parameters, sharded by FSDP2 on the first axis."""
    model = torch.nn.ParameterDict({k.replace(".", "/"): v for k, v in tensors.items()})
    model.requires_grad_(False)
    fully_shard(model, mesh=mesh)
    state = {name.replace("/", "."): tensor for name, tensor in model.state_dict().items()}
    assert all(isinstance(tensor, DTensor) for tensor in state.values())
    return state


def load(folder: str, expected: Tensors, mesh: DeviceMesh) -> None:
    for placement in (Shard(0), Shard(1), Shard(2), Replicate()):
        state = {k: placed(torch.zeros_like(v), mesh, placement) for k, v in expected.items()}
        dcp.load(state, checkpoint_id=folder)
        for name, tensor in state.items():
            check(name, tensor, expected[name])
    sharded = under_fsdp({k: torch.zeros_like(v) for k, v in expected.items()}, mesh)
    dcp.load(sharded, checkpoint_id=folder)
    for name, tensor in sharded.items():
        check(name, tensor, expected[name])


def save(folder: str, tensors: Tensors, mesh: DeviceMesh) -> None:
    ways = itertools.cycle([Shard(0), Shard(1), Replicate(), Shard(2), None])
    model = {
        name: tensor if way is None else placed(tensor, mesh, way)
        for (name, tensor), way in zip(tensors.items(), ways, strict=False)
    }
    optimizer = {"state": {name: {"step": torch.zeros(())} for name in model}, "lr": 0.1}
    state = {"model": model, "optimizer": optimizer, "iteration": 7}
    dcp.save(state, checkpoint_id=f"{folder}/each-its-way")
    dcp.save({"model": under_fsdp(tensors, mesh)}, checkpoint_id=f"{folder}/fsdp")


def work(rank: int, what: str, folder: str, file: Path) -> None:
    """Be one of two ranks, which meet in a file next to `file`."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # the threads of the process that was forked are not in this one
    meeting = f"file://{file}-ranks"
    dist.init_process_group(
        "gloo", init_method=meeting, rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    {"load": load, "save": save}[what](folder, load_file(file), init_device_mesh("cpu", (2,)))
    dist.barrier()
    # All is checked and on the disk. Ending as a process usually does has been seen to abort on a
    # busy machine, in a thread of torch's that is taken down before it is joined.
    os._exit(0)
