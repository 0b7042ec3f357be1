"""What ranks of a process group load with `streamconv.torch.StorageReader`, compared with torch.

    python tests/helpers/reader_ranks.py FOLDER HUB

FOLDER has a model of transformers as `hub`, and the same converted: `fused` (safetensors), `dcp`
(fused, as a DCP) and `flat` (another layout, as a DCP). HUB is the first of them in a repository.
Groups of 2 and of 4 ranks are forked one after the other, so that torch is imported once.
"""

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import transformers
from parallel_models import expert_parallel, fsdp, in_memory, on_meta, tensor_parallel
from torch.distributed.checkpoint import FileSystemReader, HuggingFaceStorageReader
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_tensor

import streamconv
import streamconv.torch
from streamconv.errors import BadCheckpoint

warnings.simplefilter("ignore")

State = dict[str, Any]
EXPERTS = "mlp.experts"


def bits(tensor: torch.Tensor) -> torch.Tensor:
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return local.detach().contiguous().reshape(-1).view(torch.uint8)


def assert_same(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert torch.equal(bits(tensor), bits(expected[name])), name


def divided(
    full: State, mesh: DeviceMesh, ways: Sequence[Placement], *, zeros: bool = True
) -> State:
    """Zeros or the tensors themselves, divided as asked on each axis that a tensor has."""
    state = {}
    for name, tensor in full.items():
        fits = [
            way if not isinstance(way, Shard) or way.dim < tensor.dim() else Replicate()
            for way in ways
        ]
        whole = torch.zeros_like(tensor) if zeros else tensor
        state[name] = distribute_tensor(whole, mesh, fits, src_data_rank=None)
    return state


def read_by_torch(folder: Path) -> State:
    """The whole of the converted checkpoint, by both readers of torch."""
    names = streamconv.open(folder / "fused")
    ways = (FileSystemReader(folder / "dcp"), HuggingFaceStorageReader(str(folder / "fused")))
    whole, again = (
        {name: torch.zeros(tensor.shape, dtype=tensor.dtype) for name, tensor in names.items()}
        for _ in ways
    )
    names.close()
    dcp.load(whole, storage_reader=ways[0], no_dist=True)
    dcp.load(again, storage_reader=ways[1], no_dist=True)
    assert_same(again, whole)
    return whole


def own_bytes(state: State) -> int:
    return sum(bits(tensor).numel() for tensor in state.values())


def check_placements(folder: Path, hub: str, size: int) -> None:
    """Each way to divide, against what torch reads of the converted checkpoint."""
    full = read_by_torch(folder)
    experts = {name: tensor for name, tensor in full.items() if EXPERTS in name}
    line = init_device_mesh("cpu", (size,))
    ways: list[tuple[DeviceMesh, tuple[Placement, ...]]] = [
        (line, (way,)) for way in (Shard(0), Shard(1), Shard(2), Replicate())
    ]
    if size == 4:
        three = DeviceMesh("cpu", [0, 1, 2])  # uneven, and rank 3 has nothing
        ways += [(three, (Shard(0),)), (three, (Shard(1),))]
        grid = init_device_mesh("cpu", (2, 2))
        ways += [
            (grid, pair)
            for pair in (
                (Shard(0), Shard(1)),
                (Shard(1), Shard(0)),
                (Shard(0), Shard(0)),
                (Replicate(), Shard(0)),
                (Shard(2), Replicate()),
            )
        ]
    sources = [folder / "hub", folder / "flat", hub]
    for number, (mesh, way) in enumerate(ways):
        expected = divided(full, mesh, way, zeros=False)
        found = divided(full, mesh, way)
        source = sources[number % 3]
        dcp.load(found, storage_reader=streamconv.torch.StorageReader(source, to="fused"))
        assert_same(found, expected)
        if Shard(2) not in way:  # columns are read with what is between them
            part = divided(experts, mesh, way)
            reader = streamconv.torch.StorageReader(folder / "hub", to="fused")
            dcp.load(part, storage_reader=reader)
            assert_same(part, {name: expected[name] for name in part})
            assert reader.bytes_read == own_bytes(part), way
    check_nested(folder, full, line)
    check_errors(folder, full, line)


def check_nested(folder: Path, full: State, mesh: DeviceMesh) -> None:
    """A state dict in a state dict, next to what is in no checkpoint; other dtypes and strides."""
    expected = divided(full, mesh, [Shard(0)])
    dcp.load(expected, storage_reader=FileSystemReader(folder / "dcp"))  # as torch resharded it
    state = {
        "model": divided(full, mesh, [Shard(0)]),
        "optimizer": {"state": {"lm_head.weight": {"exp_avg": torch.ones(3)}}, "lr": 0.25},
        "step": 7,
    }
    reader = streamconv.torch.StorageReader(
        folder / "flat", to="fused", prefix="model.", partial=True
    )
    dcp.load(state, storage_reader=reader)
    assert_same(state["model"], expected)
    assert reader.missing_keys == ("optimizer.state.lm_head.weight.exp_avg", "optimizer.lr", "step")
    assert torch.equal(state["optimizer"]["state"]["lm_head.weight"]["exp_avg"], torch.ones(3))
    assert (state["step"], state["optimizer"]["lr"]) == (7, 0.25)
    plain = {
        name: torch.zeros(*reversed(t.shape)).permute(*reversed(range(t.dim())))
        for name, t in full.items()
    }
    dcp.load(plain, storage_reader=streamconv.torch.StorageReader(folder / "hub", to="fused"))
    assert_same(plain, {name: tensor.float() for name, tensor in full.items()})


def failure(state: State, reader: Any) -> Any:
    """The errors by rank that a load ends with on every rank."""
    try:
        dcp.load(state, storage_reader=reader)
    except CheckpointException as error:
        return {rank: pair[0] for rank, pair in error.failures.items()}
    raise AssertionError("no error")


def check_errors(folder: Path, full: State, mesh: DeviceMesh) -> None:
    """Each rank learns of the failure of another; ranks with different options are found out."""
    rank = dist.get_rank()
    state = divided(full, mesh, [Shard(0)])
    if rank == 1:
        state["lm_head.bias"] = torch.zeros(4)
    found = failure(state, streamconv.torch.StorageReader(folder / "hub", to="fused"))
    assert list(found) == [1]
    assert isinstance(found[1], BadCheckpoint)
    assert "lm_head.bias" in found[1].message
    assert found[1].hint
    source = folder / ("flat" if rank else "dcp")
    state = divided(full, mesh, [Shard(0)])
    found = failure(state, streamconv.torch.StorageReader(source, to="fused"))
    assert isinstance(found[0], BadCheckpoint)
    assert "rank 1" in found[0].message


def check_models(folder: Path, hub: str, size: int) -> None:
    """Models are divided, loaded and trained as if they were whole."""
    lines = init_device_mesh("cpu", (size,), mesh_dim_names=("ranks",))
    grid = init_device_mesh("cpu", (size // 2, 2), mesh_dim_names=("replicas", "ranks"))
    ways: list[tuple[str | Path, list[tuple[Callable[[Any, DeviceMesh], None], DeviceMesh]]]]
    if size == 2:
        ways = [
            (folder / "hub", [(fsdp, lines)]),
            (folder / "dcp", [(expert_parallel, lines)]),
            (folder / "flat", [(tensor_parallel, lines)]),
        ]
    else:
        both = [(tensor_parallel, grid["ranks"]), (expert_parallel, grid["ranks"])]
        ways = [
            (folder / "hub", [(fsdp, lines)]),
            (hub, [both[0], (fsdp, grid["replicas"])]),
            (folder / "flat", [*both, (fsdp, grid["replicas"])]),
        ]
    whole = transformers.AutoModelForCausalLM.from_pretrained(
        folder / "hub", dtype="auto", experts_implementation="eager"
    )
    full = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    batch = torch.arange(48).reshape(4, 12) % 64
    expected = losses(whole.train(), batch, replicas=1)
    assert expected[1] < expected[0]
    for source, steps in ways:
        model = on_meta(folder / "hub")
        for divide, mesh in steps:
            divide(model, mesh)
        model = in_memory(model)
        state = model.state_dict()
        reader = streamconv.torch.StorageReader(source, to="transformers")
        dcp.load(state, storage_reader=reader)
        for name, tensor in model.state_dict().items():
            wanted = full[name]
            if isinstance(tensor, DTensor):
                wanted = distribute_tensor(
                    wanted, tensor.device_mesh, tensor.placements, src_data_rank=None
                )
                assert torch.equal(tensor.full_tensor(), full[name]), name
            assert torch.equal(bits(tensor), bits(wanted)), name
        is_fsdp = any(divide is fsdp for divide, _ in steps)
        replicas = steps[-1][1].size() if is_fsdp else 1
        number = steps[-1][1].get_local_rank() if is_fsdp else 0
        found = losses(model, batch.chunk(replicas)[number], replicas)
        torch.testing.assert_close(found, expected)


def losses(model: Any, batch: torch.Tensor, replicas: int) -> torch.Tensor:
    """The loss before and after a step of an optimizer, over all replicas."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, foreach=False)
    found = []
    for _ in range(2):
        loss = model(batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.detach())
    both = torch.stack(found)
    if replicas > 1:
        dist.all_reduce(both)
        both /= dist.get_world_size()
    return both


def work(rank: int, size: int, folder: Path, hub: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/ranks-{size}", rank=rank, world_size=size
    )
    torch.set_num_threads(1)
    torch.manual_seed(0)
    check_placements(folder, hub, size)
    check_models(folder, hub, size)
    dist.barrier()
    # All is checked. Ending as a process usually does has been seen to abort on a busy machine.
    os._exit(0)


if __name__ == "__main__":
    place, repository = sys.argv[1:]
    for count in (2, 4):
        torch.multiprocessing.start_processes(
            work, (count, Path(place), repository), nprocs=count, start_method="fork"
        )
