"""Small random models of every family, built by transformers, and what their checkpoints hold."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import reference
import torch
import transformers
from safetensors.torch import save_file
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from streamconv.catalog.catalog import default_catalog
from streamconv.catalog.families import Family

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
"""Fields that a config needs in addition to `SMALL`."""

ELSEWHERE = {"glm4v_moe", "qwen3_omni_moe"}
"""Compared with transformers in test_conversions."""


def model_types() -> list[str]:
    """Those of families that have the form `transformers`."""
    return [
        model_type
        for family in default_catalog().families.values()
        for model_type in family.model_types
        if "transformers" in family.forms and model_type not in ELSEWHERE
    ]


def fused(family: Family) -> bool:
    """Return True if the hub has it fused, and it is compared with transformers."""
    if not {*family.forms, *family.without} & {"transformers"}:
        return False
    stacks = [family.forms["hub"].layout_of(stack) for stack in family.stacks]
    return all(layout and layout.name != "per-expert" for layout in stacks)


def without_weights(model_type: str) -> Any:
    """The same model on the meta device."""
    config = _config(CONFIG_MAPPING[model_type], CONFIGS.get(model_type, {}))
    with torch.device("meta"):
        return _class(config)(config)


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


def save_as_published(model: Any, folder: Path) -> None:
    """What transformers saves; some families are published otherwise, and it loads that as well."""
    held, change = PUBLISHED.get(model.config.model_type, (False, None))
    model.save_pretrained(folder, save_original_format=not held)
    if change is not None:
        save_file(change(reference.read(folder)), folder / "model.safetensors", {"format": "pt"})
        assert_loads(model, folder)


def assert_loads(model: Any, folder: Path) -> None:
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


def _with_kv_norm(tensors: reference.Tensors) -> reference.Tensors:
    """DeepSeek-V4 as published: transformers names back a norm that it never renamed."""
    return {n.replace(".attn.norm.", ".attn.kv_norm."): tensor for n, tensor in tensors.items()}


PUBLISHED: dict[str, tuple[bool, Callable[[reference.Tensors], reference.Tensors]]] = {
    "qwen3_5_moe": (True, lambda tensors: tensors),
    "qwen3_vl_moe": (True, _transposed),
    "kimi_linear": (False, _dense_as_mlp),
    "kimi_k25": (False, _at_the_root),
    "nemo_speechlm": (False, _as_nemo),
    "deepseek_v4": (False, _with_kv_norm),
}
"""What makes the hub's tensors where transformers would save others: whether of those that it
holds in memory, and how."""
