"""Modules of torch are filled from checkpoints in other layouts."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
import transformers
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

import streamconv
from streamconv.errors import BadCheckpoint, UsageError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights, as published."""
    config = transformers.Qwen3MoeConfig(
        vocab_size=64,
        hidden_size=48,
        intermediate_size=80,
        moe_intermediate_size=24,
        num_hidden_layers=2,
        num_experts=12,
        num_experts_per_tok=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "hub"
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def expected(folder: Path) -> Any:
    """The model as transformers loads it."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()


def on_meta(folder: Path) -> Any:
    """The same model without memory, but for the buffers that no checkpoint has."""
    config = transformers.AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=config.dtype)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return model.eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(torch.arange(12).reshape(2, 6)).logits
    return found


@pytest.mark.parametrize("stored", ["hub", "fused-flat", "stacked", "dcp", "mindspeed"])
def test_a_model_on_meta_is_filled(
    folder: Path, expected: Any, tmp_path: Path, stored: str
) -> None:
    """From layouts and formats that transformers cannot load: the logits are the same."""
    options: dict[str, Any] = {
        "dcp": {"to": "fused", "format": "dcp"},
        "mindspeed": {"to": "fused-flat", "preset": "mindspeed"},
    }.get(stored, {"to": stored})
    source = folder
    if stored != "hub":
        source = tmp_path / "stored"
        streamconv.convert(folder, source, **options)
    model = on_meta(folder)
    opening = {"preset": "mindspeed"} if stored == "mindspeed" else {}
    loaded = streamconv.load(model, source, to="transformers", **opening)
    assert (loaded.missing_keys, loaded.unexpected_keys) == ((), ())
    assert not any(each.is_meta for each in model.state_dict().values())
    assert logits(expected).isfinite().all()
    assert torch.equal(logits(model), logits(expected))


def test_a_model_in_memory_is_filled_in_place(folder: Path, expected: Any) -> None:
    """Its parameters stay the same objects, and keep their dtype."""
    model = copy.deepcopy(expected).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    before = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    streamconv.load(model, folder, to="transformers")
    for name, parameter in model.named_parameters():
        assert parameter.data_ptr() == before[name]
        assert torch.equal(parameter, expected.get_parameter(name).double())


class Plain(torch.nn.Module):
    """The head and the embedding of the model, and a tensor that it does not have."""

    def __init__(self, rows: int = 64) -> None:
        super().__init__()
        self.lm_head = torch.nn.Linear(48, rows, bias=True)


def test_names_and_shapes_that_do_not_agree(folder: Path) -> None:
    """Are listed as `load_state_dict` lists them, and nothing is filled."""
    module = Plain()
    before = module.lm_head.weight.clone()
    with pytest.raises(BadCheckpoint) as caught:
        streamconv.load(module, folder)
    assert 'Missing key(s) in state_dict: "lm_head.bias".' in caught.value.message
    assert 'Unexpected key(s) in state_dict: "model.embed_tokens.weight"' in caught.value.message
    assert torch.equal(module.lm_head.weight, before)
    loaded = streamconv.load(module, folder, strict=False)
    assert loaded.missing_keys == ("lm_head.bias",)
    assert "model.norm.weight" in loaded.unexpected_keys
    assert not torch.equal(module.lm_head.weight, before)
    with pytest.raises(BadCheckpoint, match=r"size mismatch for lm_head\.weight"):
        streamconv.load(Plain(65), folder, strict=False)


def test_buffers_that_no_checkpoint_has(folder: Path) -> None:
    """A model whose rotary frequencies are on meta is refused with what to do."""
    config = transformers.AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    with pytest.raises(UsageError, match=r"rotary_emb.*on meta"):
        streamconv.load(model, folder, to="transformers")


@pytest.fixture
def mesh() -> Iterator[Any]:
    """Rank 5 of 2 x 4, in a group that only seems to be there."""
    store = FakeStore()  # type: ignore[no-untyped-call]
    torch.distributed.init_process_group("fake", rank=5, world_size=8, store=store)
    try:
        yield torch.distributed.init_device_mesh("cpu", (2, 4))
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("meta", [True, False])
def test_a_rank_reads_its_own_shards(folder: Path, expected: Any, mesh: Any, meta: bool) -> None:
    """Of parameters that are DTensors, divided in any way, even unevenly."""
    model = on_meta(folder) if meta else copy.deepcopy(expected)
    ways = ((Shard(0), Shard(0)), (Replicate(), Shard(1)), (Shard(1), Replicate()))
    experts = model.model.layers[1].mlp.experts
    places = {}
    for number, (name, parameter) in enumerate(experts.named_parameters()):
        places[name] = ways[number % 3]
        divided = distribute_tensor(parameter.detach() * 0, mesh, places[name], src_data_rank=None)
        setattr(experts, name, torch.nn.Parameter(divided))
    streamconv.load(model, folder, to="transformers")
    there = expected.model.layers[1].mlp.experts
    for name, placements in places.items():
        found = getattr(experts, name)
        assert isinstance(found.data, DTensor)
        wanted = distribute_tensor(
            there.get_parameter(name).detach(), mesh, placements, src_data_rank=None
        )
        assert torch.equal(found.to_local(), wanted.to_local())
