"""Models of transformers that are divided among ranks in the ways that torch has."""

import copy
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.nn import Module, Parameter


class ExpertParallel(ParallelStyle):
    """Each rank has an equal share of the experts, and computes what is sent to these."""

    def _apply(self, experts: Any, mesh: DeviceMesh) -> Any:
        for name, parameter in [*experts.named_parameters()]:
            divided = distribute_tensor(parameter, mesh, [Shard(0)], src_data_rank=None)
            experts.register_parameter(name, Parameter(divided))
        share = experts.num_experts // mesh.size()
        first = share * mesh.get_local_rank()
        whole = type(experts).forward

        def forward(hidden: Any, index: Any, weights: Any) -> Any:
            own = copy.copy(experts)
            own._parameters = {n: p.to_local() for n, p in experts._parameters.items()}
            own.num_experts = share
            is_mine = (index >= first) & (index < first + share)
            index = torch.where(is_mine, index - first, share)
            hidden, weights = (summed_backward(each, mesh) for each in (hidden, weights))
            made = whole(own, hidden, index, weights * is_mine)
            # even if no token is for this rank: the sums in backward are of all ranks
            made = made + hidden[:0].sum() + weights[:0].sum()
            sums = DTensor.from_local(made, mesh, [Partial()], run_check=False)
            return sums.redistribute(placements=[Replicate()]).to_local()

        experts.forward = forward
        return experts


def summed_backward(tensor: torch.Tensor, mesh: DeviceMesh) -> Any:
    """The same tensor, whose gradient is the sum of those of all ranks."""
    same = DTensor.from_local(tensor, mesh, [Replicate()], run_check=False)
    return same.to_local(grad_placements=[Partial()])


def tensor_parallel(model: Any, mesh: DeviceMesh) -> None:
    """The attention of each layer is divided by heads."""
    heads = SequenceParallel(sequence_dim=2, use_local_output=True)
    plan: dict[str, ParallelStyle] = {
        **{f"self_attn.{name}_proj": ColwiseParallel() for name in "qkv"},
        "self_attn.o_proj": RowwiseParallel(),
        "self_attn.q_norm": heads,
        "self_attn.k_norm": heads,
    }
    for layer in model.model.layers:
        parallelize_module(layer, mesh, plan, src_data_rank=None)


def expert_parallel(model: Any, mesh: DeviceMesh) -> None:
    for layer in model.model.layers:
        parallelize_module(layer.mlp, mesh, {"experts": ExpertParallel()})


def fsdp(model: Any, mesh: DeviceMesh) -> None:
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)


def on_meta(folder: Path) -> Any:
    config = transformers.AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(
            config, dtype=config.dtype, experts_implementation="eager"
        )


def in_memory(model: Any) -> Module:
    """The same model with memory for its shards, and the buffers that no checkpoint has."""
    model.to_empty(device="cpu")
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    made: Module = model.train()
    return made
