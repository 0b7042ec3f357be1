"""What people reported trouble with, as small checkpoints of random bits; compared with formulas.

Others are next to what they are about: names that lack a part in `test_foreign_names`, layers with
different numbers of experts in `test_pruned`, GPTQ and AWQ in `test_published_bytes`, InternVL's
names in `test_published_types`, foreign metadata in `test_dcp_foreign`, and a head that is tied in
`test_tied_template`.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import reference
import torch
from safetensors.torch import save_file

import streamconv
from streamconv.errors import BadCheckpoint, StreamconvError

INTER, HIDDEN = 4, 6


def bits(seed: int, *shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    size = torch.empty(0, dtype=dtype).element_size()
    raw = torch.randint(0, 256, (*shape[:-1], shape[-1] * size), dtype=torch.uint8, generator=draw)
    return raw.view(dtype)


def layer(prefix: str, experts: int) -> reference.Tensors:
    """The experts of a layer, one by one, and their router."""
    shapes = {
        "gate_proj": (INTER, HIDDEN),
        "up_proj": (INTER, HIDDEN),
        "down_proj": (HIDDEN, INTER),
    }
    tensors = {
        f"{prefix}experts.{expert}.{name}.weight": bits(100 * expert + seed, *shape)
        for expert in range(experts)
        for seed, (name, shape) in enumerate(shapes.items())
    }
    return {**tensors, f"{prefix}gate.weight": bits(99, experts, HIDDEN)}


def save(folder: Path, tensors: reference.Tensors, **config: Any) -> Path:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def check(source: Path, tensors: reference.Tensors, to: str, tmp_path: Path) -> None:
    """Merged to a layout, and split again."""
    result = streamconv.merge(source, tmp_path / "out", verify=True)
    expected = reference.to_layout(tensors, to)
    assert reference.same_bytes(expected, reference.read(tmp_path / "out")) == []
    assert result.plan.target.rows
    streamconv.split(tmp_path / "out", tmp_path / "back", verify=True)
    assert reference.same_bytes(tensors, reference.read(tmp_path / "back")) == []


def test_a_pruned_model_whose_head_has_all_experts(tmp_path: Path) -> None:
    """config.json counts those of the layers."""
    tensors = {
        **layer("model.layers.0.mlp.", 5),
        **layer("model.layers.1.mlp.", 5),
        **layer("mtp.layers.0.mlp.", 8),
    }
    source = save(tmp_path / "in", tensors, model_type="qwen3_next", num_experts=5)
    check(source, tensors, "fused", tmp_path)


def test_a_pruned_model_whose_config_is_old(tmp_path: Path) -> None:
    """Both numbers are named; corrected or passed through, it is converted."""
    tensors = layer("model.layers.0.mlp.", 5)
    source = save(tmp_path / "in", tensors, model_type="qwen3_moe", num_experts=8)
    with pytest.raises(BadCheckpoint, match=r"holds 5 experts, .* num_experts = 8") as caught:
        streamconv.merge(source, tmp_path / "no")
    assert "correct config.json" in caught.value.hint
    streamconv.merge(source, tmp_path / "copy", pass_through=True, copy=True)
    assert reference.same_bytes(tensors, reference.read(tmp_path / "copy")) == []
    (source / "config.json").write_text('{"model_type": "qwen3_moe", "num_experts": 5}')
    check(source, tensors, "fused", tmp_path)


def test_only_attention_is_quantized(tmp_path: Path) -> None:
    """GPTQ: its codes are copied, and experts in BF16 are merged."""
    stem = "model.layers.0.self_attn.q_proj."
    codes = {
        f"{stem}qweight": bits(1, 4, 32, dtype=torch.int32),
        f"{stem}qzeros": bits(2, 4, 4, dtype=torch.int32),
        f"{stem}scales": bits(3, 4, 32, dtype=torch.float16),
        f"{stem}g_idx": torch.arange(32, dtype=torch.int32) // 8,
    }
    tensors = {**layer("model.layers.0.mlp.", 4), **codes}
    quantized = {"quant_method": "gptq", "bits": 4, "group_size": 8}
    source = save(
        tmp_path / "in",
        tensors,
        model_type="qwen2_moe",
        num_experts=4,
        quantization_config=quantized,
    )
    check(source, tensors, "fused", tmp_path)


def test_a_fine_tuned_internvl_as_transformers_saves_it(tmp_path: Path) -> None:
    """Fused under the names of its own code; flat for MindSpeed, and split."""
    tensors = layer("language_model.model.layers.0.mlp.", 4)
    fused = reference.to_layout(tensors, "fused")
    text = {"model_type": "qwen3_moe", "num_experts": 4}
    source = save(tmp_path / "in", fused, model_type="internvl_chat", llm_config=text)
    found = streamconv.inspect(source).detected
    assert [stack.row.layout.name for stack in found.stacks] == ["fused"]
    check(source, tensors, "fused-flat", tmp_path)
    streamconv.convert(tmp_path / "out", tmp_path / "again", to="fused")
    assert reference.same_bytes(fused, reference.read(tmp_path / "again")) == []


def test_internvl_in_the_names_of_transformers(tmp_path: Path) -> None:
    """Names of today, and of an older release; the experts become what its class holds."""
    text = {"model_type": "qwen3_moe", "num_experts": 4}
    for number, prefix in enumerate(("model.language_model.", "language_model.model.")):
        tensors = layer(f"{prefix}layers.0.mlp.", 4)
        folder = tmp_path / str(number)
        folder.mkdir()
        source = save(folder / "in", tensors, model_type="internvl", text_config=text)
        check(source, tensors, "fused", folder)


MIXTRAL = {"model_type": "mixtral", "num_local_experts": 4}
QWEN = {"model_type": "qwen3_moe", "num_experts": 4}


def one_based() -> reference.Tensors:
    tensors = layer("model.layers.0.mlp.", 5)
    lost = ".experts.0."
    return {name: each for name, each in tensors.items() if lost not in name}


def half_renamed() -> reference.Tensors:
    tensors = layer("model.layers.0.block_sparse_moe.", 4)
    gate = tensors.pop("model.layers.0.block_sparse_moe.gate.weight")
    return {**tensors, "model.layers.0.mlp.gate.weight": gate}


def twice() -> reference.Tensors:
    tensors = layer("model.layers.0.mlp.", 4)
    return {**reference.to_layout(tensors, "fused"), **tensors}


@pytest.mark.parametrize(
    ("tensors", "config", "why", "way"),
    [
        (one_based(), QWEN, r"experts\.0\.gate_proj.* there are experts 1 to 4", "--pass-through"),
        (half_renamed(), MIXTRAL, r"mlp\.gate\.weight .* get another name", "--rename"),
        (twice(), QWEN, "tensors of more than one layout", "--pass-through"),
    ],
    ids=["counted from one", "renamed in half", "stored twice"],
)
def test_odd_checkpoints_are_refused_with_a_way_on(
    tensors: reference.Tensors, config: dict[str, Any], why: str, way: str, tmp_path: Path
) -> None:
    source = save(tmp_path / "in", tensors, **config)
    with pytest.raises(StreamconvError, match=why) as caught:
        streamconv.merge(source, tmp_path / "out")
    assert way in caught.value.hint
    streamconv.convert(source, tmp_path / "copy", to="same", pass_through=True, copy=True)
    assert reference.same_bytes(tensors, reference.read(tmp_path / "copy")) == []
