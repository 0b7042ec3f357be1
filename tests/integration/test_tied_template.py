"""A tied model whose hub checkpoint stores the head, and whose DCP has the trained embeddings only.

Nothing is trained here: two random models are the one before and the one after. transformers loads
the result, whose weights have to be those of the trained model.
"""

import json
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

import streamconv

HEAD = "lm_head.weight"


def config(*, tied: bool) -> Qwen3MoeConfig:
    return Qwen3MoeConfig(
        hidden_size=16,
        intermediate_size=24,
        moe_intermediate_size=8,
        num_hidden_layers=2,
        num_experts=4,
        num_experts_per_tok=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        vocab_size=32,
        tie_word_embeddings=tied,
    )


def random_model(seed: int, *, tied: bool = True) -> Qwen3MoeForCausalLM:
    torch.manual_seed(seed)
    model = Qwen3MoeForCausalLM(config(tied=tied))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    return model.to(torch.bfloat16)


def hub(folder: Path, model: Qwen3MoeForCausalLM) -> Path:
    """Save a model as published, with its head."""
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[HEAD] = model.lm_head.weight.detach().clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def trained(folder: Path, model: Qwen3MoeForCausalLM) -> Path:
    """Save a model as training does, without its head."""
    state = {name: t.detach().clone() for name, t in model.state_dict().items() if name != HEAD}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save({"model": state}, checkpoint_id=folder, no_dist=True)
    return folder


@pytest.mark.parametrize("fill", [True, False])
def test_the_head_of_the_template_is_left_out(fill: bool, tmp_path: Path) -> None:
    """It is not even missing, and is named."""
    before, after = random_model(1), random_model(2)
    template, run = hub(tmp_path / "hub", before), trained(tmp_path / "dcp", after)
    result = streamconv.split(
        run, tmp_path / "out", template=template, fill_from_template=fill, verify=True
    )
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.bfloat16)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    expected = after.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
    assert HEAD in loaded.state_dict()
    reference = result.plan.checkpoint.template
    assert reference is not None
    assert reference.tied == (HEAD,)
    found = streamconv.verify(run, tmp_path / "out", template=template, fill_from_template=fill)
    assert found.ok
    assert any("which config.json ties to the embeddings" in text for text in found.unchecked)


def test_a_head_that_is_not_tied_is_filled(tmp_path: Path) -> None:
    before, after = random_model(1, tied=False), random_model(2, tied=False)
    template, run = hub(tmp_path / "hub", before), trained(tmp_path / "dcp", after)
    streamconv.split(run, tmp_path / "out", template=template, fill_from_template=True)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.bfloat16)
    assert torch.equal(loaded.lm_head.weight, before.lm_head.weight)


def test_a_config_that_does_not_say_it(tmp_path: Path) -> None:
    """The head is filled in as asked, and the plan says that it may contradict the embeddings."""
    template, run = (
        hub(tmp_path / "hub", random_model(1)),
        trained(tmp_path / "dcp", random_model(2)),
    )
    fields = json.loads((template / "config.json").read_text())
    del fields["tie_word_embeddings"]
    (template / "config.json").write_text(json.dumps(fields))
    plan = streamconv.plan(run, to="per-expert", template=template, fill_from_template=True)
    reference = plan.checkpoint.template
    assert reference is not None
    assert (reference.tied, reference.maybe_tied) == ((), (HEAD,))
