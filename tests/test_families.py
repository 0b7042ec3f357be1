"""Every family of the table, held against transformers: the names, shapes and bytes that it has.

transformers builds a small random model and saves it twice: as the hub has it, and as it holds it
in memory (`save_original_format=False`). A conversion has to lead from each to the other, key for
key and byte for byte.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import reference
import torch
import transformers
from safetensors.torch import save_file
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import streamconv
from streamconv.families import Family, families, family_of
from streamconv.layouts import layouts

EXPERTS = 11
SMALL: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "max_position_embeddings"), 64),
    **dict.fromkeys(
        ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), EXPERTS
    ),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk"), 2),
    **dict.fromkeys(("n_shared_experts", "num_shared_experts", "n_group", "topk_group"), 1),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("first_k_dense_replace", "moe_layer_start_index", "pad_token_id"), 0),
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_size": 32,
    "intermediate_size": 40,
    "moe_intermediate_size": 20,
    "shared_expert_intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "mamba_d_state": 4,
}
"""Sizes of a small model, as far as a config has such fields."""

VISION: dict[str, Any] = {
    "depth": 1,
    "hidden_size": 16,
    "num_heads": 2,
    "patch_size": 4,
    "intermediate_size": 24,
    "out_hidden_size": 32,
    "num_position_embeddings": 16,
    "deepstack_visual_indexes": [0],
}
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}

CONFIGS: dict[str, dict[str, Any]] = {
    "aria_text": {},
    "beam": {"num_hidden_layers": 4},
    "dbrx": {
        "d_model": 32,
        "n_heads": 4,
        "n_layers": 2,
        "max_seq_len": 64,
        "ffn_config": {"ffn_hidden_size": 20, "moe_num_experts": EXPERTS, "moe_top_k": 2},
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0},
    },
    "flint": {"num_hidden_layers": 4},
    "granitemoehybrid": {"mamba_n_heads": 4, "mamba_d_head": 16, "layer_types": ["attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 0},
    "nemotron_h": {
        "layers_block_type": ["mamba", "moe", "attention", "moe"],
        "mamba_num_heads": 4,
        "mamba_head_dim": 8,
        "n_groups": 1,
        "ssm_state_size": 4,
        "moe_shared_expert_intermediate_size": 24,
    },
    "qwen3_vl_moe": {"vision_config": VISION, "text_config": {"rope_parameters": MROPE}},
    "qwen3_5_moe": {
        "vision_config": VISION,
        "text_config": {"layer_types": ["linear_attention", "full_attention"]},
    },
    "llama4": {
        "vision_config": {
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "vision_output_dim": 16,
            "projector_input_dim": 16,
            "projector_output_dim": 16,
            "image_size": 8,
            "patch_size": 4,
        },
    },
    "aria": {
        "vision_config": {
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 24,
            "image_size": 8,
            "patch_size": 4,
        },
    },
}
"""What a config needs besides `SMALL`."""

ELSEWHERE = {"internvl_chat", "kimi_k2", "glm4v_moe", "qwen3_omni_moe"}
"""Tested in test_conversions, or of a class that is not transformers' own."""


def model_types() -> list[str]:
    """Those of families that have the form `transformers`."""
    return [
        model_type
        for family in families().values()
        for model_type in family.model_types
        if "transformers" in family.forms and model_type not in ELSEWHERE
    ]


def _fused(family: Family) -> bool:
    stacks = [family.forms["hub"].layout_of(stack) for stack in family.stacks]
    return all(layout and layout.name != "per-expert" for layout in stacks) and any(
        model_type in model_types() for model_type in family.model_types
    )


def build(model_type: str) -> Any:
    """A small random model in bfloat16."""
    config = _config(CONFIG_MAPPING[model_type], CONFIGS.get(model_type, {}))
    with torch.device("meta"):
        assert sum(tensor.numel() for tensor in _class(config)(config).parameters()) < 3_000_000
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = _class(config)(config)
        for parameter in model.parameters():
            parameter.data = parameter.data.to(torch.bfloat16)
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.normal_(std=0.02)
    return model.eval()


def _config(config_class: Any, own: dict[str, Any]) -> Any:
    """A config with the fields of `SMALL` that it knows, those of its text model too."""
    default = config_class()
    known = {*default.to_dict(), *getattr(config_class, "attribute_map", {})}
    fields = {key: value for key, value in SMALL.items() if key in known}
    if "text_config" in known:
        text = _config(type(default.text_config), own.get("text_config", {}))
        return config_class(**{**fields, **own, "text_config": text.to_dict()})
    return config_class(**{**fields, **own})


def _class(config: Any) -> Any:
    autos = (
        transformers.AutoModelForImageTextToText,
        transformers.AutoModelForCausalLM,
    )
    return next(
        auto._model_mapping[type(config)] for auto in autos if type(config) in auto._model_mapping
    )


def _save_as_published(model: Any, folder: Path) -> None:
    """What transformers saves; two families are published otherwise, and it loads that as well."""
    change = PUBLISHED.get(model.config.model_type)
    model.save_pretrained(folder, save_original_format=change is None)
    if change is not None:
        save_file(change(reference.read(folder)), folder / "model.safetensors", {"format": "pt"})
        loaded = type(model).from_pretrained(folder, dtype="auto").state_dict()
        assert reference.same_bytes(dict(model.state_dict()), dict(loaded)) == []


def _transposed(tensors: reference.Tensors) -> reference.Tensors:
    return {
        name: tensor.transpose(1, 2).contiguous() if ".experts." in name else tensor
        for name, tensor in tensors.items()
    }


PUBLISHED: dict[str, Callable[[reference.Tensors], reference.Tensors]] = {
    "qwen3_5_moe": lambda tensors: tensors,
    "qwen3_vl_moe": _transposed,
}
"""What makes the hub's tensors of those in memory, where transformers would save others."""


@pytest.fixture(scope="module", params=model_types())
def model_type(request: pytest.FixtureRequest) -> str:
    return str(request.param)


Saved = tuple[Path, Path]


@pytest.fixture(scope="module")
def saved(model_type: str, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """The model as on the hub, and as in memory."""
    folder = tmp_path_factory.mktemp(model_type)
    model = build(model_type)
    model.save_pretrained(folder / "memory", save_original_format=False)
    family = family_of(model_type)
    assert family is not None
    _save_as_published(model, folder / "hub")
    return folder / "hub", folder / "memory"


def test_the_form_transformers_is_what_it_holds_in_memory(saved: Saved, tmp_path: Path) -> None:
    hub, memory = saved
    streamconv.convert(hub, tmp_path / "out", to="transformers", max_shard_size="40KB")
    out = reference.read(tmp_path / "out")
    assert reference.same_bytes(reference.read(memory), out) == []
    assert streamconv.inspect(hub)[1].stacks


def test_from_memory_to_the_hub(saved: Saved, tmp_path: Path) -> None:
    hub, memory = saved
    streamconv.convert(memory, tmp_path / "out", to="hub")
    assert reference.same_bytes(reference.read(hub), reference.read(tmp_path / "out")) == []


@pytest.mark.parametrize("name", [name for name, family in families().items() if _fused(family)])
def test_every_layout_and_back(name: str, tmp_path: Path) -> None:
    """What the hub has fused becomes each layout and comes back, or is refused with a reason."""
    hub = tmp_path / "hub"
    _save_as_published(build(families()[name].model_types[0]), hub)
    original = reference.read(hub)
    refused = []
    for layout in layouts():
        out, back = tmp_path / layout, tmp_path / f"{layout}-back"
        try:
            streamconv.convert(hub, out, to=layout)
        except streamconv.PlanRefused as refusal:
            assert "could not be told apart" in refusal.message
            refused.append(layout)
            continue
        streamconv.convert(out, back, to="hub")
        assert reference.same_bytes(original, reference.read(back)) == [], layout
    assert len(refused) <= 1
