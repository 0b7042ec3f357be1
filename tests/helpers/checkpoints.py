"""Small checkpoints on disk, as the ecosystem writes them.

Every builder creates ``folder``, writes one checkpoint of less than 3 MB into it and returns it.
The same arguments give the same tensors, and the random state of the caller is left alone.

All but one are written by transformers' ``save_pretrained``, so names, shards, index and config
are its own: one tensor per expert, with the names of the hub. Common to all of them:

- weights are random bfloat16, none is constant, so that exchanged tensors show;
- some expert weights are NaNs with a payload or -0.0, which only bytes tell apart;
- there are more than ten experts in a stack, so that text order is not number order;
- the experts of a layer, and those of one projection too, lie in several shards;
- by default neither H == I nor H == 2 I, where E, H and I are the number of experts, the hidden
  and the intermediate size: gate and up are ``[I, H]``, down is ``[H, I]``;
- other files are next to the weights, one of them hidden and one in a subfolder.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

INDEX = "model.safetensors.index.json"

REMOTE_CODE_RAN = "remote-code-ran"
"""The file that appears in an `internvl_chat` folder if anything imports the code in it."""

ODDITIES = (0x7FC1, 0x7FA1, 0xFF81, 0x8000)
"""Bit patterns planted in expert weights: a quiet NaN, two signalling ones, and -0.0."""

_HEADS: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}

_IN_MEMORY_CLASSES = {
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "glm4v_moe": "Glm4vMoeForConditionalGeneration",
    "qwen3_omni_moe": "Qwen3OmniMoeForConditionalGeneration",
    "qwen3": "Qwen3ForCausalLM",
    "llama": "LlamaForCausalLM",
}


def qwen3_moe(
    folder: Path,
    *,
    experts: int = 12,
    hidden: int = 48,
    intermediate: int = 21,
    layers: int = 2,
    shard_size: str = "17KB",
    seed: int = 0,
) -> Path:
    """Qwen3-MoE: ``model.layers.{l}.mlp.experts.{e}.{gate,up,down}_proj.weight``."""
    config = transformers.Qwen3MoeConfig(
        vocab_size=64,
        hidden_size=hidden,
        intermediate_size=80,
        moe_intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_experts=experts,
        num_experts_per_tok=2,
        **_HEADS,
    )
    return _save(transformers.Qwen3MoeForCausalLM, config, folder, shard_size, seed)


def mixtral(
    folder: Path,
    *,
    experts: int = 12,
    hidden: int = 40,
    intermediate: int = 70,
    layers: int = 2,
    shard_size: str = "50KB",
    seed: int = 0,
) -> Path:
    """Mixtral: ``model.layers.{l}.block_sparse_moe.experts.{e}.{w1,w3,w2}.weight``.

    w1 is gate, w3 is up, w2 is down.
    """
    config = transformers.MixtralConfig(
        vocab_size=64,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_local_experts=experts,
        num_experts_per_tok=2,
        **_HEADS,
    )
    return _save(transformers.MixtralForCausalLM, config, folder, shard_size, seed)


def glm4v_moe(
    folder: Path,
    *,
    experts: int = 12,
    hidden: int = 48,
    intermediate: int = 21,
    layers: int = 3,
    shard_size: str = "17KB",
    seed: int = 0,
) -> Path:
    """GLM-4.5V: ``model.language_model.layers.{l}.mlp.experts.{e}.{gate,up,down}_proj.weight``.

    Layer 0 is dense. The others have ``mlp.shared_experts.*`` and a float32
    ``mlp.gate.e_score_correction_bias`` whose values bfloat16 cannot hold.
    """
    config = transformers.Glm4vMoeConfig(
        text_config={
            "vocab_size": 64,
            "hidden_size": hidden,
            "intermediate_size": 80,
            "moe_intermediate_size": intermediate,
            "num_hidden_layers": layers,
            "n_routed_experts": experts,
            "n_shared_experts": 1,
            "num_experts_per_tok": 2,
            "first_k_dense_replace": 1,
            "rope_parameters": _mrope(1, 1, 1),
            **_HEADS,
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "num_heads": 2,
            "image_size": 8,
            "patch_size": 4,
            "intermediate_size": 24,
            "out_hidden_size": hidden,
        },
    )
    return _save(transformers.Glm4vMoeForConditionalGeneration, config, folder, shard_size, seed)


def qwen3_omni_moe(
    folder: Path,
    *,
    experts: int = 12,
    hidden: int = 48,
    intermediate: int = 21,
    layers: int = 2,
    talker_experts: int = 11,
    talker_hidden: int = 40,
    talker_intermediate: int = 14,
    talker_layers: int = 2,
    shard_size: str = "17KB",
    seed: int = 0,
) -> Path:
    """Qwen3-Omni with audio output: thinker, talker and code2wav.

    Two stacks of experts, ``thinker.model.layers.{l}.mlp.experts.{e}.*`` and
    ``talker.model.layers.{l}.mlp.experts.{e}.*`` with sizes of their own. The talker has
    ``mlp.shared_expert.*`` and ``mlp.shared_expert_gate.weight`` as well.
    """
    config = transformers.Qwen3OmniMoeConfig(
        enable_audio_output=True,
        thinker_config={
            "text_config": {
                "vocab_size": 64,
                "hidden_size": hidden,
                "intermediate_size": 80,
                "moe_intermediate_size": intermediate,
                "num_hidden_layers": layers,
                "num_experts": experts,
                "num_experts_per_tok": 2,
                "rope_parameters": _mrope(2, 1, 1),
                **_HEADS,
            },
            "audio_config": {
                "d_model": 16,
                "encoder_layers": 1,
                "encoder_attention_heads": 2,
                "encoder_ffn_dim": 24,
                "num_mel_bins": 16,
                "downsample_hidden_size": 8,
                "max_source_positions": 20,
                "output_dim": hidden,
            },
            "vision_config": {
                "depth": 2,
                "hidden_size": 16,
                "num_heads": 2,
                "patch_size": 2,
                "intermediate_size": 24,
                "num_position_embeddings": 16,
                "deepstack_visual_indexes": [0],
                "out_hidden_size": hidden,
            },
        },
        talker_config={
            "num_code_groups": 4,
            "thinker_hidden_size": hidden,
            "accept_hidden_layer": 1,
            "spatial_merge_size": 2,
            "text_config": {
                "vocab_size": 64,
                "hidden_size": talker_hidden,
                "intermediate_size": 56,
                "moe_intermediate_size": talker_intermediate,
                "shared_expert_intermediate_size": 26,
                "num_hidden_layers": talker_layers,
                "num_experts": talker_experts,
                "num_experts_per_tok": 2,
                "rope_parameters": _mrope(2, 1, 1),
                **_HEADS,
            },
            "code_predictor_config": {
                "vocab_size": 32,
                "hidden_size": talker_hidden,
                "intermediate_size": 24,
                "num_hidden_layers": 1,
                "num_code_groups": 4,
                **_HEADS,
            },
        },
        code2wav_config={
            "codebook_size": 16,
            "hidden_size": 16,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "intermediate_size": 24,
            "num_hidden_layers": 1,
            "num_quantizers": 4,
            "upsample_rates": [2, 2],
            "upsampling_ratios": [2],
            "decoder_dim": 16,
        },
    )
    return _save(
        transformers.Qwen3OmniMoeForConditionalGeneration, config, folder, shard_size, seed
    )


def internvl_chat(
    folder: Path,
    *,
    experts: int = 12,
    hidden: int = 48,
    intermediate: int = 21,
    layers: int = 2,
    seed: int = 0,
) -> Path:
    """InternVL3.5 in its GitHub format, whose model class is code shipped with the checkpoint.

    ``language_model.model.layers.{l}.mlp.experts.{e}.{gate,up,down}_proj.weight`` next to
    ``vision_model.*`` and ``mlp1.*``. Only the index knows the shards: their names follow no
    pattern. Importing the shipped code leaves a file `REMOTE_CODE_RAN` in ``folder`` and raises.
    """
    folder.mkdir(parents=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tensors = _internvl_tensors(experts, hidden, intermediate, layers)
        order = torch.randperm(len(tensors)).tolist()

    names = sorted(tensors)
    shards = ("a.safetensors", "part-two.safetensors", "Weights_b.safetensors", "0.safetensors")
    weight_map = {names[k]: shards[place % len(shards)] for place, k in enumerate(order)}
    for shard in shards:
        content = {name: tensors[name] for name in names if weight_map[name] == shard}
        save_file(content, folder / shard, metadata={"format": "pt"})
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    _write_json(
        folder / INDEX,
        {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))},
    )
    _write_json(
        folder / "config.json",
        {
            "architectures": ["InternVLChatModel"],
            "auto_map": {
                "AutoConfig": "configuration_internvl_chat.InternVLChatConfig",
                "AutoModel": "modeling_internvl_chat.InternVLChatModel",
                "AutoModelForCausalLM": "modeling_internvl_chat.InternVLChatModel",
            },
            "downsample_ratio": 0.5,
            "llm_config": {
                "architectures": ["Qwen3MoeForCausalLM"],
                "hidden_size": hidden,
                "intermediate_size": 80,
                "model_type": "qwen3_moe",
                "moe_intermediate_size": intermediate,
                "num_experts": experts,
                "num_experts_per_tok": 2,
                "num_hidden_layers": layers,
                "vocab_size": 64,
                **_HEADS,
            },
            "model_type": "internvl_chat",
            "torch_dtype": "bfloat16",
            "vision_config": {
                "architectures": ["InternVisionModel"],
                "hidden_size": 16,
                "intermediate_size": 24,
                "model_type": "intern_vit_6b",
                "num_attention_heads": 2,
                "num_hidden_layers": 1,
            },
        },
    )
    marker = str(folder.resolve() / REMOTE_CODE_RAN)
    for module in ("configuration_internvl_chat.py", "modeling_internvl_chat.py"):
        (folder / module).write_text(
            f"from pathlib import Path\n\nPath({marker!r}).touch()\n"
            'raise ImportError("the code of a checkpoint must never be run")\n'
        )
    _add_other_files(folder)
    return folder


def qwen3(folder: Path, *, layers: int = 3, shard_size: str = "20KB", seed: int = 0) -> Path:
    """Qwen3, which has no experts."""
    config = transformers.Qwen3Config(
        vocab_size=64,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=layers,
        **_HEADS,
    )
    return _save(transformers.Qwen3ForCausalLM, config, folder, shard_size, seed)


def llama(folder: Path, *, layers: int = 3, shard_size: str = "20KB", seed: int = 0) -> Path:
    """Llama, whose output is its embedding: the file has one of them."""
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=layers,
        tie_word_embeddings=True,
        **_HEADS,
    )
    return _save(transformers.LlamaForCausalLM, config, folder, shard_size, seed)


BUILDERS: dict[str, Callable[..., Path]] = {
    "qwen3_moe": qwen3_moe,
    "mixtral": mixtral,
    "glm4v_moe": glm4v_moe,
    "qwen3_omni_moe": qwen3_omni_moe,
    "internvl_chat": internvl_chat,
}
"""Builders by the ``model_type`` of what they write."""


def quantized(original: Path, folder: Path) -> dict[str, torch.Tensor]:
    """``original`` with the projections of its layers as random FP8, block-scaled as DeepSeek does.

    Blocks are 16 by 16; some are cut short. Every projection ``W`` has ``W_scale_inv``, in float32.
    Returns what the tensors stand for: bfloat16, the products rounded once.
    """
    folder.mkdir()
    generator = torch.Generator().manual_seed(3)
    plain: dict[str, torch.Tensor] = {}
    stored: dict[str, torch.Tensor] = {}
    for path in sorted(original.glob("*.safetensors")):
        for name, tensor in load_file(path).items():
            plain[name] = stored[name] = tensor
            if not name.endswith("_proj.weight"):
                continue
            codes = torch.randint(0, 256, tensor.shape, dtype=torch.uint8, generator=generator)
            stored[name] = codes.view(torch.float8_e4m3fn)
            grid = [-(-extent // 16) for extent in tensor.shape]
            scales = torch.rand(grid, generator=generator) / 100
            stored[f"{name}_scale_inv"] = scales
            rows, columns = tensor.shape
            wide = scales.repeat_interleave(16, 0).repeat_interleave(16, 1)[:rows, :columns]
            plain[name] = (stored[name].float() * wide).to(torch.bfloat16)
    for number in range(3):
        part = {name: stored[name] for name in sorted(stored)[number::3]}
        save_file(part, folder / f"part-{number}.safetensors")
    config = json.loads((original / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [16, 16]}
    _write_json(folder / "config.json", config)
    return plain


def in_memory(folder: Path) -> dict[str, torch.Tensor]:
    """What transformers holds in memory for a checkpoint: its own names and shapes.

    Dtypes are those of the files: what it widens for its arithmetic, as some routers since 5.24,
    is narrowed again, which gives the same bits back. ``folder`` may be in any form that
    transformers loads. The tensors are copies, independent of the files. Raises ValueError for a
    model type that transformers does not know, or where something is missing, left over or
    misshapen; transformers itself would fill in random weights.
    """
    config = json.loads((folder / "config.json").read_text())
    model_type = config["model_type"]
    if model_type not in _IN_MEMORY_CLASSES:
        raise ValueError(f"{folder}: transformers has no class for model_type {model_type!r}")
    cls = getattr(transformers, _IN_MEMORY_CLASSES[model_type])
    model, info = cls.from_pretrained(folder, dtype="auto", output_loading_info=True)
    wrong = {what: found for what, found in info.items() if found}
    if wrong:
        raise ValueError(f"{folder}: transformers did not load it completely: {wrong}")
    dtypes = {
        name: tensor.dtype
        for file in folder.glob("*.safetensors")
        for name, tensor in load_file(file).items()
    }
    return {
        name: tensor.detach().to(dtypes.get(name, tensor.dtype), copy=True)
        for name, tensor in model.state_dict().items()
    }


def _save(cls: Any, config: Any, folder: Path, shard_size: str, seed: int) -> Path:
    """Write a randomly filled bfloat16 model of ``cls`` with transformers itself."""
    folder.mkdir(parents=True)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = cls(config).to(torch.bfloat16)
        for module in model.modules():
            if hasattr(module, "e_score_correction_bias"):
                # transformers holds this one in float32 when it loads, but `to` casts it.
                module.e_score_correction_bias = module.e_score_correction_bias.float()
        for name, tensor in model.state_dict().items():
            # Norms and biases start as constants, some experts and routers as unset memory.
            tensor.normal_(std=0.02)
            if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
                _plant(tensor)
        model.save_pretrained(folder)
        # Tensors that share memory go into one shard, whatever its size, and so would all experts
        # of a projection, being views of the fused one. Saved again as copies, they are cut
        # anywhere, as in the checkpoints of the hub.
        single = folder / "model.safetensors"
        tensors = load_file(single)
        single.unlink()
        model.save_pretrained(
            folder,
            state_dict={name: tensors[name].clone() for name in sorted(tensors, key=_by_number)},
            save_original_format=False,
            max_shard_size=shard_size,
        )
    _add_other_files(folder)
    return folder


def _internvl_tensors(
    experts: int, hidden: int, intermediate: int, layers: int
) -> dict[str, torch.Tensor]:
    vision, mlp, vocab = 16, 24, 64
    query = _HEADS["num_attention_heads"] * _HEADS["head_dim"]
    key = _HEADS["num_key_value_heads"] * _HEADS["head_dim"]
    shapes: dict[str, tuple[int, ...]] = {
        "vision_model.embeddings.class_embedding": (1, 1, vision),
        "vision_model.embeddings.patch_embedding.weight": (vision, 3, 4, 4),
        "vision_model.embeddings.patch_embedding.bias": (vision,),
        "vision_model.embeddings.position_embedding": (1, 5, vision),
        "mlp1.0.weight": (4 * vision,),
        "mlp1.0.bias": (4 * vision,),
        "mlp1.1.weight": (hidden, 4 * vision),
        "mlp1.1.bias": (hidden,),
        "mlp1.3.weight": (hidden, hidden),
        "mlp1.3.bias": (hidden,),
        "language_model.model.embed_tokens.weight": (vocab, hidden),
        "language_model.model.norm.weight": (hidden,),
        "language_model.lm_head.weight": (vocab, hidden),
    }
    for name, shape in {
        "attn.qkv.weight": (3 * vision, vision),
        "attn.qkv.bias": (3 * vision,),
        "attn.proj.weight": (vision, vision),
        "attn.proj.bias": (vision,),
        "mlp.fc1.weight": (mlp, vision),
        "mlp.fc1.bias": (mlp,),
        "mlp.fc2.weight": (vision, mlp),
        "mlp.fc2.bias": (vision,),
        "norm1.weight": (vision,),
        "norm1.bias": (vision,),
        "norm2.weight": (vision,),
        "norm2.bias": (vision,),
        "ls1": (vision,),
        "ls2": (vision,),
    }.items():
        shapes[f"vision_model.encoder.layers.0.{name}"] = shape
    for layer in range(layers):
        prefix = f"language_model.model.layers.{layer}"
        for name, shape in {
            "input_layernorm.weight": (hidden,),
            "post_attention_layernorm.weight": (hidden,),
            "self_attn.q_proj.weight": (query, hidden),
            "self_attn.k_proj.weight": (key, hidden),
            "self_attn.v_proj.weight": (key, hidden),
            "self_attn.o_proj.weight": (hidden, query),
            "self_attn.q_norm.weight": (_HEADS["head_dim"],),
            "self_attn.k_norm.weight": (_HEADS["head_dim"],),
            "mlp.gate.weight": (experts, hidden),
        }.items():
            shapes[f"{prefix}.{name}"] = shape
        for expert in range(experts):
            shapes[f"{prefix}.mlp.experts.{expert}.gate_proj.weight"] = (intermediate, hidden)
            shapes[f"{prefix}.mlp.experts.{expert}.up_proj.weight"] = (intermediate, hidden)
            shapes[f"{prefix}.mlp.experts.{expert}.down_proj.weight"] = (hidden, intermediate)
    tensors = {
        name: torch.randn(shape).mul_(0.02).to(torch.bfloat16) for name, shape in shapes.items()
    }
    for name, tensor in tensors.items():
        if any(f".experts.{expert}." in name for expert in (0, experts // 2, experts - 1)):
            _plant(tensor)
    return tensors


def _plant(tensor: torch.Tensor) -> None:
    """Put `ODDITIES` into a bfloat16 tensor: at both ends and about its thirds."""
    bits = tensor.view(torch.int16).view(-1)
    last = bits.numel() - 1
    for place, pattern in zip((0, last // 3 + 1, 2 * last // 3, last), ODDITIES, strict=True):
        # As signed: torch hardly knows unsigned 16 bit integers.
        bits[place] = pattern - 0x10000 if pattern & 0x8000 else pattern


def _by_number(name: str) -> list[tuple[int, str]]:
    """Sorts names part by part, numbers by value."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def _mrope(*section: int) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": list(section)}


def _add_other_files(folder: Path) -> None:
    """Add files that a repository on the hub has next to weights and config."""
    _write_json(folder / "tokenizer.json", {"version": "1.0", "model": {"vocab": {"a": 0}}})
    _write_json(folder / "tokenizer_config.json", {"model_max_length": 32768})
    (folder / "README.md").write_text("# A small checkpoint\n")
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs diff=lfs merge=lfs -text\n")
    (folder / "assets").mkdir()
    (folder / "assets" / "readme.txt").write_text("Not a weight.\n")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
