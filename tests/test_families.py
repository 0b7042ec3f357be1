"""Every family of the table, held against transformers: the names, shapes and bytes that it has.

transformers builds a small random model and saves it twice: as the hub has it, and as it holds it
in memory (`save_original_format=False`). A conversion has to lead from each to the other, key for
key and byte for byte.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import reference
import torch
import transformers
from click.testing import CliRunner
from folders import forget
from safetensors.torch import save_file
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import streamconv
from streamconv.catalog.families import Family, families, family_of
from streamconv.catalog.layouts import layouts
from streamconv.cli import cli

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

KDA: dict[str, Any] = {
    "layer_types": ["linear_attention", "full_attention"],
    "mlp_layer_types": ["dense", "sparse"],
    "num_key_value_heads": 4,
    "linear_num_heads": 4,
    "linear_head_dim": 8,
}
GLM5: dict[str, Any] = {
    **KDA,
    "layer_types": ["linear_attention", "indexed_attention"],
    "indexer_types": ["full", "full"],
    "index_head_dim": 8,
    "index_n_heads": 2,
    "hc_mult": 2,
    "qk_rope_head_dim": 0,
}

TOWER: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 8,
    "patch_size": 4,
}
SAM: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "mlp_dim": 24,
    "image_size": 32,
    "patch_size": 4,
    "output_channels": 8,
    "downsample_channels": [8, 16],
    "global_attn_indexes": [1],
    "window_size": 2,
}

ENCODER: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
INKLING2: dict[str, Any] = {
    "layer_types": ["hybrid_sliding", "hybrid"],
    "swa_head_dim": 8,
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 2,
    "d_rel": 4,
    "rel_extent": 8,
    "n_layers_per_attn_res_block": 1,
}
INKLING2_VISION: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "patch_size": 4,
    "projection_hidden_dim": 16,
    "text_hidden_size": 32,
    "posemb_grid_size": 4,
}

CONFIGS: dict[str, dict[str, Any]] = {
    "inkling2": {
        "text_config": {**INKLING2, "unpadded_vocab_size": 60},
        "vision_config": INKLING2_VISION,
    },
    "inkling2_loop": {
        "text_config": {
            **INKLING2,
            "unpadded_vocab_size": 60,
            "num_hidden_layers": 3,
            "layer_types": ["hybrid_sliding", "hybrid", "hybrid"],
            "loop_layer_index_start": 1,
            "loop_layer_index_end": 2,
            "loop_num_passes": 2,
            "loop_gate_rank": 4,
        },
        "vision_config": {"model_type": "inkling2_vision", **INKLING2_VISION},
    },
    "qwen4_exp": {
        "text_config": {
            "layer_types": ["linear_attention", "indexed_attention"],
            "hc_count": 2,
            "hc_lowrank": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "indexer_n_heads": 2,
            "indexer_kv_heads": 1,
            "indexer_head_dim": 8,
            "indexer_budget": 8,
            "indexer_compress_ratio": 2,
            "ple_layer_ids": [1],
            "ngram_size": 2,
            "heads_per_ngram": 2,
            "ngram_vocab_size_base": 32,
            "make_ngram_vocab_size_divisible_by": 8,
            "split_ngram_parts": 4,
        },
        "vision_config": VISION,
    },
    "dots3_note": {
        "text_config": {
            "num_key_value_heads": 4,
            "head_dim": 12,
            "index_head_dim": 8,
            "index_n_heads": 2,
            "mlp_layer_types": ["dense", "sparse"],
            "layer_types": ["indexed_attention"] * 2,
            "shared_experts_intermediate_size": 24,
        },
        "vision_config": {
            "hidden_size": 16,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "patch_size": 4,
            "intermediate_size": 24,
            "moe_intermediate_size": 12,
            "pyramid_num_routed": [-1, 3, 5],
            "adapter_in_dim": 16,
            "adapter_out_dim": 32,
        },
        "audio_config": {
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 24,
            "feature_size": 16,
            "downsample_hidden_size": 8,
            "adapter_input_size": 16,
            "adapter_out_dim": 32,
        },
    },
    "nemo_speechlm": {
        "text_config": {
            "model_type": "nemotron_h",
            "layers_block_type": ["mamba", "moe", "attention", "moe"],
            "mamba_num_heads": 4,
            "mamba_head_dim": 8,
            "n_groups": 1,
            "ssm_state_size": 4,
            "moe_shared_expert_intermediate_size": 24,
        },
        "audio_config": {
            "asr_config": ENCODER,
            "diarization_config": {
                "audio_config": ENCODER,
                "head_config": {"hidden_size": 8, "audio_hidden_size": 16},
            },
        },
        "word_timestamp_config": {
            **ENCODER,
            "vocab_size": 8,
            "blank_token_id": 7,
        },
    },
    "kimi_k25": {
        "text_config": {"first_k_dense_replace": 1, "num_key_value_heads": 4, "head_dim": 4},
        "vision_config": {
            **TOWER,
            "pos_emb_height": 4,
            "pos_emb_width": 4,
            "pos_emb_time": 2,
        },
        "projection_hidden_size": 64,
    },
    "longcat_flash": {
        "num_layers": 1,
        "zero_expert_num": 0,
        "ffn_hidden_size": 24,
        "expert_ffn_hidden_size": 20,
        "num_key_value_heads": 4,
    },
    "step3p7": {
        "text_config": {
            "layer_types": ["full_attention"] * 2,
            "mlp_layer_types": ["dense", "sparse"],
            "num_sliding_attention_heads": 4,
            "share_expert_dim": 24,
            "sliding_window": 8,
        },
        "vision_config": TOWER,
    },
    "mistral_large4": {
        "text_config": {
            "layer_types": ["indexed_attention"] * 2,
            "mlp_layer_types": ["dense", "sparse"],
            "indexer_types": ["full"] * 2,
            "kv_source_layers": [0, 1],
            "no_rope_layers": [1, 0],
            "index_head_dim": 8,
            "index_n_heads": 2,
            "head_dim": 4,
            "num_key_value_heads": 4,
        },
        "vision_config": {**TOWER, "num_hidden_layers": 2, "head_dim": 8},
    },
    "deepseek_ocr2": {
        "text_config": {"num_key_value_heads": 4, "mlp_layer_types": ["dense", "sparse"]},
        "vision_config": {
            "sam_config": SAM,
            "encoder_config": {
                "hidden_size": 32,
                "intermediate_size": 24,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "head_dim": 8,
                "vocab_size": 8,
                "layer_types": ["full_attention"],
            },
        },
    },
    "unlimited_ocr": {
        "text_config": {
            "num_key_value_heads": 4,
            "layer_types": ["reference_sliding_attention"] * 2,
            "mlp_layer_types": ["dense", "sparse"],
        },
        "vision_config": {"sam_config": SAM, "encoder_config": TOWER},
    },
    "inkling_mm_model": {
        "text_config": {
            "layer_types": ["hybrid_sliding", "hybrid"],
            "mlp_layer_types": ["dense", "sparse"],
            "n_shared_experts": 2,
            "d_rel": 4,
            "rel_extent": 8,
            "swa_head_dim": 8,
            "swa_num_attention_heads": 4,
            "swa_num_key_value_heads": 2,
        },
        "audio_config": {"n_mel_bins": 4, "mel_vocab_size": 8, "text_hidden_size": 32},
        "vision_config": {
            "hidden_size": 16,
            "n_layers": 4,
            "num_attention_heads": 2,
            "patch_size": 4,
            "text_hidden_size": 32,
        },
    },
    "kimi_linear": KDA,
    "bailing_hybrid": {**KDA, "first_k_dense_replace": 1, "num_expert_group": 1, "topk_group": 1},
    "glm5_next": {
        "text_config": GLM5,
        "vision_config": {**VISION, "projection_intermediate_size": 24, "image_size": 8},
    },
    "glm5_next_text": GLM5,
    "minimax_m3_vl": {
        "text_config": {
            "mlp_layer_types": ["dense", "sparse"],
            "layer_types": ["full_attention", "minimax_m3_sparse"],
            "dense_intermediate_size": 40,
            "shared_intermediate_size": 24,
            "intermediate_size": 20,
            "index_head_dim": 8,
            "index_n_heads": 2,
            "rotary_dim": 4,
        },
        "projector_hidden_size": 24,
        "merged_hidden_size": 128,
        "vision_config": TOWER,
    },
    "aria_text": {},
    "beam": {"num_hidden_layers": 4},
    "deepseek_v4": {
        "num_hidden_layers": 3,
        "layer_types": [
            "compressed_sparse_attention",
            "heavily_compressed_attention",
            "sliding_attention",
        ],
        "mlp_layer_types": ["hash_moe", "moe", "moe"],
        "num_key_value_heads": 1,
        "index_head_dim": 8,
        "index_n_heads": 2,
        "o_groups": 2,
        "o_lora_rank": 8,
    },
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
        "vision_config": TOWER,
    },
}
"""What a config needs besides `SMALL`."""

ELSEWHERE = {"glm4v_moe", "qwen3_omni_moe"}
"""Held against transformers in test_conversions."""


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
    return all(layout and layout.name != "per-expert" for layout in stacks)


def build(model_type: str) -> Any:
    """A small random model in bfloat16."""
    config = _config(CONFIG_MAPPING[model_type], CONFIGS.get(model_type, {}))
    with torch.device("meta"):
        assert sum(tensor.numel() for tensor in _class(config)(config).parameters()) < 4_000_000
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
        transformers.AutoModelForMultimodalLM,
        transformers.AutoModel,
    )
    return next(
        auto._model_mapping[type(config)] for auto in autos if type(config) in auto._model_mapping
    )


def _save_as_published(model: Any, folder: Path) -> None:
    """What transformers saves; some families are published otherwise, and it loads that as well."""
    held, change = PUBLISHED.get(model.config.model_type, (False, None))
    model.save_pretrained(folder, save_original_format=not held)
    if change is not None:
        save_file(change(reference.read(folder)), folder / "model.safetensors", {"format": "pt"})
        _assert_loads(model, folder)


def _assert_loads(model: Any, folder: Path) -> None:
    """That transformers makes the very model of a folder, with nothing missing or left over."""
    loaded, info = type(model).from_pretrained(folder, dtype="auto", output_loading_info=True)
    assert not any(info.values()), info
    held = dict(model.state_dict())
    # What it widens for its arithmetic is narrowed again, which gives the same bits back.
    narrowed = {name: tensor.to(held[name].dtype) for name, tensor in loaded.state_dict().items()}
    assert reference.same_bytes(held, narrowed) == []


def _transposed(tensors: reference.Tensors) -> reference.Tensors:
    return {
        name: tensor.transpose(1, 2).contiguous() if ".experts." in name else tensor
        for name, tensor in tensors.items()
    }


def _dense_as_mlp(tensors: reference.Tensors) -> reference.Tensors:
    dense = re.compile(r"block_sparse_moe\.(\w+_proj)")
    return {dense.sub(r"mlp.\1", name): tensor for name, tensor in tensors.items()}


def _at_the_root(tensors: reference.Tensors) -> reference.Tensors:
    """Kimi-K2.5 as published: what transformers names back after other modules, put right."""
    published = {
        "language_model.model.blocks.": "language_model.model.layers.",
        "vision_tower.encoder.patch_embed.": "vision_tower.patch_embed.",
        "model.mm_projector.": "mm_projector.",
    }
    begins = re.compile(rf"\A({'|'.join(map(re.escape, published))})")
    return {
        begins.sub(lambda match: published[match[0]], name, count=1): tensor
        for name, tensor in tensors.items()
    }


def _as_nemo(tensors: reference.Tensors) -> reference.Tensors:
    """The experts as NeMo exports them: stacked, and each of them turned."""
    wanted = {"up_proj": "gate_and_up_projs", "down_proj": "down_projs"}
    one = re.compile(r"(.*\.experts\.)(\d+)\.(\w+)\.weight")
    made: reference.Tensors = {}
    stacks: dict[str, dict[int, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if match := one.fullmatch(name):
            stack = stacks.setdefault(match[1] + wanted[match[3]], {})
            stack[int(match[2])] = tensor.transpose(0, 1)
        else:
            made[name] = tensor
    for name, stack in stacks.items():
        made[name] = torch.stack([stack[number] for number in range(EXPERTS)])
    return made


PUBLISHED: dict[str, tuple[bool, Callable[[reference.Tensors], reference.Tensors]]] = {
    "qwen3_5_moe": (True, lambda tensors: tensors),
    "qwen3_vl_moe": (True, _transposed),
    "kimi_linear": (False, _dense_as_mlp),
    "kimi_k25": (False, _at_the_root),
    "nemo_speechlm": (False, _as_nemo),
}
"""What makes the hub's tensors where transformers would save others: whether of those that it
holds in memory, and how."""


@pytest.fixture(scope="module", params=model_types())
def model_type(request: pytest.FixtureRequest) -> str:
    return str(request.param)


Saved = tuple[Path, Path]


@pytest.fixture(scope="module")
def saved(model_type: str, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """The model as on the hub, and as in memory."""
    folder = tmp_path_factory.mktemp(model_type)
    family = family_of(model_type)
    assert family is not None
    assert not family.held_as or model_type not in CONFIG_MAPPING
    model = build(family.held_as or model_type)
    model.save_pretrained(folder / "memory", save_original_format=False)
    _save_as_published(model, folder / "hub")
    for path in folder.glob("*/config.json") if family.held_as else ():
        path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": model_type}))
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
    """What the hub has fused becomes each layout and comes back, or is refused with a reason;
    without its record it comes back as well, or is refused: never as other bytes."""
    hub = tmp_path / "hub"
    _save_as_published(build(families()[name].model_types[0]), hub)
    original = reference.read(hub)
    refused = []
    for layout in layouts():
        out, back, guess = (tmp_path / f"{layout}{end}" for end in ("", "-back", "-guess"))
        try:
            streamconv.convert(hub, out, to=layout)
        except streamconv.PlanRefused as refusal:
            assert "could not be told apart" in refusal.message
            refused.append(layout)
            continue
        streamconv.convert(out, back, to="hub")
        assert reference.same_bytes(original, reference.read(back)) == [], layout
        forget(out)
        try:
            streamconv.convert(out, guess, to="hub")
        except streamconv.PlanRefused as refusal:
            assert "--from" in refusal.hint
            streamconv.convert(out, guess, to="hub", source_layout=layout)
        assert reference.same_bytes(original, reference.read(guess)) == [], layout
    assert len(refused) <= 1


@pytest.mark.parametrize(
    "name",
    [
        "qwen3_moe",
        "mixtral",
        "minimax_m2",
        "glm4_moe",
        "granitemoe",
        "gpt_oss",
        "llama4_text",
        "nemotron_h",
        "bailing_hybrid",
        "sarvam_moe",
        "step3p7",
        "kimi_k25",
    ],
)
def test_the_same_logits_from_every_layout_that_transformers_loads(
    name: str, tmp_path: Path
) -> None:
    """Loaded from either form, with nothing missing or left over, a model says the same."""
    model = build(name)
    _save_as_published(model, tmp_path / "hub")
    model.save_pretrained(tmp_path / "memory", save_original_format=False)
    streamconv.convert(tmp_path / "hub", tmp_path / "to-transformers", to="transformers")
    streamconv.convert(tmp_path / "memory", tmp_path / "to-hub", to="hub")
    tokens = torch.arange(3, 15).unsqueeze(0)
    logits = []
    for folder in ("hub", "to-transformers", "to-hub"):
        loaded, info = type(model).from_pretrained(
            tmp_path / folder,
            dtype="auto",
            experts_implementation="eager",
            output_loading_info=True,
        )
        assert not any(info.values()), info
        with torch.no_grad():
            logits.append(loaded.eval()(tokens).logits)
    assert logits[0].isfinite().all()
    assert all(logits[0].equal(other) for other in logits[1:])


LACKING = {
    "Dots3NoteTextModel": "a class inside dots3_note, which has a row",
    "dots3_note_vision_encoder": "a part of dots3_note: of another number of experts each layer",
    "UnlimitedOcrTextModel": "a class inside unlimited_ocr, which has a row",
    "mistral_large4_text": "a part of mistral_large4, which has a row",
    "inkling2_text": "a part of inkling2, which has a row",
    "inkling2_loop_text": "a part of inkling2_loop, which has a row",
    "qwen3_omni_moe_text": "never published alone: a part of qwen3_omni_moe",
    "qwen3_omni_moe_thinker": "never published alone: a part of qwen3_omni_moe",
    "qwen4_exp_text": "a part of qwen4_exp, which has a row",
}
"""Model types whose experts transformers re-lays and that are in no row here, and why."""

OURS_ALONE = {
    "inkling2": "transformers maps its text model, inkling2_text",
    "inkling2_loop": "transformers maps its text model, inkling2_loop_text",
    "qwen4_exp": "transformers maps its text model, qwen4_exp_text",
    "dots3_note": "transformers maps its text model, Dots3NoteTextModel, and its vision tower",
    "mistral_large4": "transformers maps its text model, mistral_large4_text",
    "unlimited_ocr": "transformers maps its text model, UnlimitedOcrTextModel",
    "aria": "transformers maps its text model, aria_text, and llava around it",
    "qwen3_5_moe": "transformers maps its text model, qwen3_5_moe_text; the hub has it fused",
    "dbrx": "transformers holds what the hub has",
    "gpt_oss": "transformers holds what the hub has",
    "granitemoe_swa": "transformers holds what the hub has",
    "jetmoe": "transformers holds what the hub has",
    "llama4": "transformers holds what the hub has",
    "llama4_text": "transformers holds what the hub has",
    "internvl_chat": "code that its repositories ship, not transformers' own",
    "kimi_k2": "transformers holds it in the class of deepseek_v3",
}
"""Model types in a row here whose experts transformers does not map, and why."""


def _remade_by_transformers() -> set[str]:
    """The model types and classes for which transformers' mapping makes tensors of experts."""
    from transformers.conversion_mapping import _build_checkpoint_conversion_mapping

    return {
        name
        for name, transforms in _build_checkpoint_conversion_mapping().items()
        if any("experts" in to for one in transforms for to in one._original_target_patterns)
    }


def test_the_table_against_that_of_transformers() -> None:
    """What either has and the other lacks is named above: a new release shows what is missing."""
    theirs = _remade_by_transformers()
    ours = {model_type for family in families().values() for model_type in family.model_types}
    assert theirs - ours == {*LACKING}
    assert ours - theirs == {*OURS_ALONE}
    for model_type in theirs & ours:
        family = family_of(model_type)
        assert family is not None
        assert "transformers" in {*family.forms, *family.without} or family.refused


def test_what_cannot_be_told_is_refused_by_name(tmp_path: Path) -> None:
    """Experts of two kinds in one list: refused with the reason, or passed through whole."""
    source = tmp_path / "source"
    source.mkdir()
    tensors = {
        f"model.layers.0.mlp.experts.{k}.{name}_proj.weight": torch.randn(size, 4)
        for k, size in ((0, 6), (1, 3))
        for name in ("gate", "up", "down")
    }
    save_file(tensors, source / "model.safetensors")
    (source / "config.json").write_text('{"model_type": "ernie4_5_vl_moe"}')
    with pytest.raises(streamconv.PlanRefused, match="one list of experts") as caught:
        streamconv.merge(source, tmp_path / "out")
    assert "--pass-through" in caught.value.hint
    streamconv.merge(source, tmp_path / "out", pass_through=True)
    assert reference.same_bytes(tensors, reference.read(tmp_path / "out")) == []


def test_a_pyramid_of_experts_is_refused_by_name(tmp_path: Path) -> None:
    """More of them from layer to layer of a vision tower: the reason, or passed through whole."""
    hub = tmp_path / "hub"
    build("dots3_note").save_pretrained(hub)
    tensors = reference.read(hub)
    for layer, count in ((1, 3), (2, 5)):
        first = re.compile(rf"vision_encoder\.blocks\.{layer}\.mlp\.experts\.\d+\.fc1\.weight")
        assert sum(bool(first.fullmatch(name)) for name in tensors) == count
    with pytest.raises(streamconv.PlanRefused, match="another number of experts in each layer"):
        streamconv.merge(hub, tmp_path / "out")
    streamconv.merge(hub, tmp_path / "out", pass_through=True)
    assert reference.same_bytes(tensors, reference.read(tmp_path / "out")) == []


def test_scales_of_step_3_7_go_with_their_weights(tmp_path: Path) -> None:
    """FP8 in blocks, under names of the hub's own: fused as transformers calls it, and back."""
    source, prefix = tmp_path / "source", "model.layers.1.moe."
    source.mkdir()
    tensors = {f"{prefix}router_bias": torch.randn(EXPERTS)}
    for name, shape in (("gate", (256, 128)), ("up", (256, 128)), ("down", (128, 256))):
        blocks = [n // 128 for n in shape]
        weight = torch.randint(1, 120, (EXPERTS, *shape), dtype=torch.uint8)
        tensors[f"{prefix}{name}_proj.weight"] = weight.view(torch.float8_e4m3fn)
        tensors[f"{prefix}{name}_proj.weight_scale_inv"] = torch.rand(EXPERTS, *blocks)
    save_file(tensors, source / "model.safetensors")
    quantized = {"weight_block_size": [128, 128]}
    config = {"model_type": "step3p7", "quantization_config": quantized}
    (source / "config.json").write_text(json.dumps(config))
    streamconv.merge(source, tmp_path / "out", verify=True)
    out = reference.read(tmp_path / "out")
    here = "model.language_model.layers.1.mlp."
    for end, made in ((".weight", ""), (".weight_scale_inv", "_scale_inv")):
        gate, up, down = (tensors[f"{prefix}{n}_proj{end}"] for n in ("gate", "up", "down"))
        fused = {"gate_up_proj": torch.cat([t.view(torch.uint8) for t in (gate, up)], 1)}
        fused["down_proj"] = down.view(torch.uint8)
        for name, wanted in fused.items():
            assert out.pop(f"{here}experts.{name}{made}").view(torch.uint8).equal(wanted)
    assert [*out] == [f"{here}gate.e_score_correction_bias"]
    streamconv.convert(tmp_path / "out", tmp_path / "back", to="hub", verify=True)
    assert reference.same_bytes(tensors, reference.read(tmp_path / "back")) == []


def test_scales_of_inkling_2_go_with_their_weights(tmp_path: Path) -> None:
    """MXFP8, a scale for 32 elements of a row: apart from each other as the rows are, and back."""
    source = tmp_path / "source"
    source.mkdir()
    prefix = "model.llm.layers.0.mlp.experts."
    tensors = {
        f"{prefix}{name}": torch.randint(1, 120, shape, dtype=torch.uint8)
        for name, shape in (
            ("w13_weight", (EXPERTS, 40, 64)),
            ("w13_weight_scale", (EXPERTS, 40, 2)),
            ("w2_weight", (EXPERTS, 64, 20)),
            ("w2_weight_scale", (EXPERTS, 64, 1)),
        )
    }
    for name in (f"{prefix}w13_weight", f"{prefix}w2_weight"):
        tensors[name] = tensors[name].view(torch.float8_e4m3fn)
    save_file(tensors, source / "model.safetensors")
    (source / "config.json").write_text('{"model_type": "inkling2"}')
    streamconv.merge(source, tmp_path / "out")
    out = reference.read(tmp_path / "out")
    for name in ("", "_scale"):
        rows = tensors[f"{prefix}w13_weight{name}"].view(torch.uint8)
        fused = torch.cat([rows[:, 0::2], rows[:, 1::2]], 1)
        assert out[f"{prefix}gate_up_proj{name}"].view(torch.uint8).equal(fused)
    streamconv.convert(tmp_path / "out", tmp_path / "back", to="hub")
    assert reference.same_bytes(tensors, reference.read(tmp_path / "back")) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nonsense", "no table of families"),
        ("[families.x]\nmodel_types = ['x']", "lacks 'stacks'"),
        ("[families.x]\nmodel_types = ['x']\nstacks = 3", "not written like a row"),
        ("[layouts.x]\ngate_up = 'a : b'", "needs a template"),
        ("[layouts.x]\ngate_up = 'no template'\ndown = 'a : b'", "not a tensor template"),
        ("[namings.x]\np = ['a']", "has to list"),
        (
            "[families.x]\nmodel_types = ['x']\nmerge = 'hub'\nstacks = {'m.*.' = ''}\n"
            "hub.layouts = {'*' = 'fused'}\nhub.renames = [{plain = '*.a', here = 'b'}]",
            "could not be undone",
        ),
        (
            "[families.x]\nmodel_types = ['x']\nmerge = 'hub'\nstacks = {'m.*.' = ''}\n"
            "hub.layouts = {'*' = 'fuzed'}",
            "no layout called 'fuzed'",
        ),
    ],
)
def test_a_bad_file_of_families_is_refused(text: str, said: str, tmp_path: Path) -> None:
    """The same checks as for the table, in a process of its own; nothing is a traceback."""
    (tmp_path / "mine.toml").write_text(text)
    command = [sys.executable, "-m", "streamconv", "merge", str(tmp_path), str(tmp_path / "out")]
    done = subprocess.run(
        [*command, "--family", str(tmp_path / "mine.toml")],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("verb", "table"), [("families", families), ("layouts", layouts)])
def test_the_tables_are_shown(verb: str, table: Callable[[], dict[str, Any]]) -> None:
    """As a table and as JSON, every row."""
    shown = CliRunner().invoke(cli, [verb])
    assert shown.exit_code == 0
    fields = json.loads(CliRunner().invoke(cli, [verb, "--json"]).stdout)
    kinds = {"families": "family", "layouts": "layout"}
    assert [row[kinds[verb]] for row in fields[verb]] == list(table())
    assert "gpt_oss" in shown.output if verb == "families" else "e h (i p)" in shown.output


def test_layers_of_different_kinds_in_one_checkpoint(tmp_path: Path) -> None:
    """Qwen3.5: the main layers fused, those of MTP one tensor an expert; nothing else moves."""
    hub = tmp_path / "hub"
    _save_as_published(build("qwen3_5_moe"), hub)
    tensors = reference.read(hub)
    for name, shape in (("gate", (20, 32)), ("up", (20, 32)), ("down", (32, 20))):
        for number in range(EXPERTS):
            key = f"mtp.layers.0.mlp.experts.{number}.{name}_proj.weight"
            tensors[key] = torch.randn(shape).to(torch.bfloat16)
    tensors["mtp.fc.weight"] = torch.randn(3, 3)
    save_file(tensors, hub / "model.safetensors")
    streamconv.split(hub, tmp_path / "split")
    assert not any(name.endswith("gate_up_proj") for name in reference.read(tmp_path / "split"))
    for middle in ("split", "hub"):
        streamconv.convert(tmp_path / middle, tmp_path / f"{middle}-back", to="hub")
        back = reference.read(tmp_path / f"{middle}-back")
        assert reference.same_bytes(tensors, back) == []
    streamconv.convert(tmp_path / "split", tmp_path / "memory", to="transformers")
    memory = reference.read(tmp_path / "memory")
    main = {name: tensor for name, tensor in tensors.items() if not name.startswith("mtp.")}
    kept = {name: tensor for name, tensor in memory.items() if not name.startswith("mtp.")}
    assert reference.same_bytes(main, kept) == []


@pytest.mark.parametrize(
    "name", [t for f in families().values() if "transformers" in f.without for t in f.model_types]
)
def test_experts_of_families_that_have_no_row_for_the_rest(name: str, tmp_path: Path) -> None:
    """Their experts fused are what transformers holds, whatever it makes of other names."""
    model = build(name)
    hub, memory = tmp_path / "hub", tmp_path / "memory"
    _save_as_published(model, hub)
    model.save_pretrained(memory, save_original_format=False)
    streamconv.merge(hub, tmp_path / "out", verify=True)

    def experts(folder: Path) -> reference.Tensors:
        # What the hub calls a down projection that fusing leaves as it is: inkling2.
        down = re.compile(r"\.experts\.w2_weight$")
        parts = (
            (down.sub(".experts.down_proj", key).split("."), tensor)
            for key, tensor in reference.read(folder).items()
        )
        held = {".".join(p[-2:]) + next(filter(str.isdigit, p), ""): t for p, t in parts}
        return {key: tensor for key, tensor in held.items() if key.startswith("experts.")}

    assert experts(memory)
    assert reference.same_bytes(experts(memory), experts(tmp_path / "out")) == []
    streamconv.convert(tmp_path / "out", tmp_path / "back", to="hub")
    assert reference.same_bytes(reference.read(hub), reference.read(tmp_path / "back")) == []
    with pytest.raises(streamconv.PlanRefused, match="has no form 'transformers' here") as caught:
        streamconv.convert(hub, tmp_path / "no", to="transformers")
    family = family_of(name)
    assert family is not None
    assert family.without["transformers"] in caught.value.message


def test_zero_experts_are_what_transformers_itself_does_not_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As published, without weights for them: the reason that the table gives."""
    monkeypatch.setitem(CONFIGS["longcat_flash"], "zero_expert_num", 3)
    hub = tmp_path / "hub"
    build("longcat_flash").save_pretrained(hub)
    of_zero = re.compile(r"\.experts\.1[1-3]\.")
    tensors = {n: t for n, t in reference.read(hub).items() if not of_zero.search(n)}
    save_file(tensors, hub / "model.safetensors", {"format": "pt"})
    ((key, here, there),) = streamconv.check(hub).mismatched
    assert key.endswith("experts.gate_up_proj")
    assert (here[0], there[0]) == (EXPERTS, EXPERTS + 3)
    streamconv.merge(hub, tmp_path / "out", verify=True)


def test_deepseek_v4_under_the_names_of_its_hub(tmp_path: Path) -> None:
    """At the root, with a layer for MTP: transformers loads its form, and all of it comes back."""
    model = build("deepseek_v4")
    hub = tmp_path / "hub"
    model.save_pretrained(hub)
    tensors: reference.Tensors = {}
    for name, tensor in reference.read(hub).items():
        root = name.removeprefix("model.").replace("hc_head.hc_", "hc_head_")
        tensors[root.replace("embed_tokens.", "embed.")] = tensor
        if root.startswith("layers.2."):
            tensors[root.replace("layers.2.", "mtp.0.")] = tensor.clone()
    assert {"embed.weight", "head.weight", "norm.weight", "hc_head_fn"} <= {*tensors}
    for name, shape in (("e_proj.weight", (32, 32)), ("enorm.weight", (32,)), ("hc_head_fn", (2,))):
        tensors[f"mtp.0.{name}"] = torch.randn(shape).to(torch.bfloat16)
    save_file(tensors, hub / "model.safetensors", {"format": "pt"})
    out = tmp_path / "out"
    streamconv.convert(hub, out, to="transformers", verify=True)
    _assert_loads(model, out)
    mtp = {name for name in reference.read(out) if name.startswith("mtp.")}
    assert {
        "mtp.0.mlp.experts.gate_up_proj",
        "mtp.0.self_attn.q_a_proj.weight",
        "mtp.0.e_proj.weight",
        "mtp.0.hc_head_fn",
    } <= mtp
    streamconv.convert(out, tmp_path / "back", to="hub", verify=True)
    assert reference.same_bytes(tensors, reference.read(tmp_path / "back")) == []
