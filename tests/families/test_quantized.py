"""Scales, packed elements and biases move with their weights wherever that is exact."""

import json
from pathlib import Path
from typing import Any

import pytest
import reference
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

import streamconv
from streamconv.cli import cli
from streamconv.report.plan_json import plan_fields

E, BLOCK = 11, 16
"""More than ten experts, so that the order of text is not that of numbers."""
MLP = "model.layers.0.mlp."
PROJECTIONS = ("gate_proj", "up_proj", "down_proj")

Tensors = reference.Tensors
Shapes = dict[str, tuple[torch.dtype, tuple[int, ...], tuple[int, ...]]]
"""By part of an expert: its dtype, its shape for gate and up, its shape for down."""


def fp8_blocks(i: int, h: int, block: int = BLOCK) -> Shapes:
    """DeepSeek V3, Qwen3-FP8, MiniMax-M2: a scale for each square block."""
    down, across = -(-i // block), -(-h // block)
    return {
        "weight": (torch.uint8, (i, h), (h, i)),
        "weight_scale_inv": (torch.float32, (down, across), (across, down)),
    }


def fp8_channels(i: int, h: int) -> Shapes:
    """GLM-4.5-FP8: a scale for each row."""
    return {
        "weight": (torch.uint8, (i, h), (h, i)),
        "weight_scale": (torch.bfloat16, (i, 1), (h, 1)),
    }


def int4(i: int, h: int) -> Shapes:
    """Kimi: eight elements in an I32, a scale for each 16 of them, the shape as numbers."""
    return {
        "weight_packed": (torch.int32, (i, h // 8), (h, i // 8)),
        "weight_scale": (torch.bfloat16, (i, h // 16), (h, i // 16)),
        "weight_shape": (torch.int32, (2,), (2,)),
    }


def biased(i: int, h: int) -> Shapes:
    return {
        "weight": (torch.bfloat16, (i, h), (h, i)),
        "bias": (torch.float32, (i,), (h,)),
    }


KINDS = {"fp8_blocks": fp8_blocks, "fp8_channels": fp8_channels, "int4": int4, "biased": biased}


def write(folder: Path, tensors: Tensors, **config: Any) -> Path:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    fields = {"model_type": "qwen3_moe", "num_experts": E, **config}
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


def bits(dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    """Random bits, NaNs among them."""
    wide = (*shape[:-1], shape[-1] * dtype.itemsize)
    return torch.randint(0, 256, wide, dtype=torch.uint8).view(dtype)


def experts(parts: Shapes) -> Tensors:
    torch.manual_seed(0)
    tensors: Tensors = {"model.norm.weight": bits(torch.bfloat16, (8,))}
    for part, (dtype, pair, down) in parts.items():
        for number in range(E):
            for name in PROJECTIONS:
                shape = down if name == "down_proj" else pair
                tensor = bits(dtype, shape)
                if part == "weight" and dtype == torch.uint8:
                    tensor = tensor.view(torch.float8_e4m3fn)
                tensors[f"{MLP}experts.{number}.{name}.{part}"] = tensor
    return tensors


def fused(tensors: Tensors) -> Tensors:
    """What merging has to give, by torch's own cat and stack, in the names of transformers."""
    made = {name: tensor for name, tensor in tensors.items() if ".experts." not in name}
    for part in {name.rsplit(".", 1)[1] for name in tensors if ".experts." in name}:

        def of(projection: str, part: str = part) -> list[torch.Tensor]:
            names = (f"{MLP}experts.{number}.{projection}.{part}" for number in range(E))
            return [tensors[name].contiguous().view(torch.uint8) for name in names]

        dtype = tensors[f"{MLP}experts.0.gate_proj.{part}"].dtype
        suffix = part.removeprefix("weight") if part != "bias" else "_bias"
        join = torch.stack if part == "weight_shape" else torch.cat
        pairs = zip(of("gate_proj"), of("up_proj"), strict=True)
        gate_up = torch.stack([join(pair) for pair in pairs])
        made[f"{MLP}experts.gate_up_proj{suffix}"] = gate_up.view(dtype)
        made[f"{MLP}experts.down_proj{suffix}"] = torch.stack(of("down_proj")).view(dtype)
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_everything_of_an_expert_is_fused_and_split(kind: str, tmp_path: Path) -> None:
    tensors = experts(KINDS[kind](48, 32))
    source = write(tmp_path / "source", tensors)
    streamconv.convert(source, tmp_path / "out", to="fused")
    assert reference.same_bytes(fused(tensors), reference.read(tmp_path / "out")) == []
    streamconv.split(tmp_path / "out", tmp_path / "back")
    assert reference.same_bytes(tensors, reference.read(tmp_path / "back")) == []


@pytest.mark.parametrize("layout", ["stacked", "fused-transposed", "fused-flat", "stacked-flat"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_layout_comes_back_or_is_refused(kind: str, layout: str, tmp_path: Path) -> None:
    """Packed elements lie along the axis that a transpose would move; all else is exact."""
    tensors = experts(KINDS[kind](48, 32))
    source = write(tmp_path / "source", tensors)
    if kind == "int4" and layout != "stacked":
        with pytest.raises(streamconv.PlanRefused, match="weight_packed I32"):
            streamconv.convert(source, tmp_path / "out", to=layout, copy=True)
        return
    streamconv.convert(source, tmp_path / "out", to=layout, copy=True)
    streamconv.convert(tmp_path / "out", tmp_path / "back", to="hub")
    assert reference.same_bytes(tensors, reference.read(tmp_path / "back")) == []


def test_transposed_scales_are_transposed_blocks(tmp_path: Path) -> None:
    tensors = experts(fp8_blocks(48, 32))
    streamconv.convert(write(tmp_path / "source", tensors), tmp_path / "out", to="fused-transposed")
    out = reference.read(tmp_path / "out")
    want = fused(tensors)
    for name in ("gate_up_proj_scale_inv", "down_proj_scale_inv"):
        turned = want[f"{MLP}experts.{name}"].view(torch.int32).transpose(1, 2)
        assert out[f"{MLP}experts.{name}"].view(torch.int32).equal(turned)


@pytest.mark.parametrize("said", [True, False])
def test_a_cut_inside_a_block_is_refused_with_the_sizes(said: bool, tmp_path: Path) -> None:
    """40 rows are two and a half blocks of 16: gate and up cannot share a column of scales."""
    config = {"quantization_config": {"weight_block_size": [BLOCK, BLOCK]}} if said else {}
    tensors = experts(fp8_blocks(40, 32))
    source = write(tmp_path / "source", tensors, **config)
    with pytest.raises(streamconv.PlanRefused, match=r"40.*inside a block") as caught:
        streamconv.convert(source, tmp_path / "out", to="fused")
    assert "weight_scale_inv" in caught.value.message
    streamconv.convert(source, tmp_path / "stacked", to="stacked")
    streamconv.split(tmp_path / "stacked", tmp_path / "back")
    assert reference.same_bytes(tensors, reference.read(tmp_path / "back")) == []
    streamconv.convert(source, tmp_path / "passed", to="fused", pass_through=True)
    assert reference.same_bytes(tensors, reference.read(tmp_path / "passed")) == []
    planned = streamconv.plan(source, to="fused", pass_through=True)
    reasons = plan_fields(planned, None)["target"]["passed_through"]
    assert "inside a block" in reasons["model.layers.*.mlp.experts"]


BLOCKS_OF_128 = {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 128]}


@pytest.mark.parametrize(
    "said",
    [
        {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}},
        {"compression_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}},
        {"quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8_PB_WO"}},
        {
            "quantization_config": {
                "quant_method": "compressed-tensors",
                "format": "float-quantized",
                "config_groups": {"group_0": {"weights": BLOCKS_OF_128}},
            }
        },
    ],
    ids=["fp8", "compression_config", "modelopt", "compressed-tensors"],
)
def test_a_block_that_gate_does_not_fill_is_not_shared(said: Any, tmp_path: Path) -> None:
    """A reader of the merged matrix would take the first 128 of its 192 rows for one block."""
    tensors = experts(fp8_blocks(96, 128, 128))
    source = write(tmp_path / "source", tensors, **said)
    with pytest.raises(streamconv.PlanRefused, match=r"96.*inside a block"):
        streamconv.plan(source, to="fused")


def test_what_no_layout_describes_is_passed_through_whole(tmp_path: Path) -> None:
    """The stack with the unknown tensor stays as it is, another one is converted."""
    known = experts(fp8_channels(48, 32))
    other = {
        name.replace("model.layers", "mtp.layers"): tensor.clone()
        for name, tensor in known.items()
        if ".experts." in name
    }
    other["mtp.layers.0.mlp.experts.3.up_proj.weight_zeros"] = bits(torch.uint8, (4,))
    source = write(tmp_path / "source", {**known, **other})
    with pytest.raises(streamconv.PlanRefused, match="weight_zeros") as caught:
        streamconv.convert(source, tmp_path / "out", to="fused")
    assert "--pass-through" in caught.value.hint
    shown = CliRunner().invoke(
        cli,
        [
            "convert",
            str(source),
            str(tmp_path / "out"),
            "--to",
            "fused",
            "--pass-through",
            "--dry-run",
        ],
    )
    said = " ".join(shown.output.split())
    assert "mtp.layers.*.mlp.experts" in said
    assert "mtp.layers.0.mlp.experts.3.up_proj" in said
    streamconv.convert(source, tmp_path / "out", to="fused", pass_through=True)
    want = {**fused(known), **other}
    assert reference.same_bytes(want, reference.read(tmp_path / "out")) == []


def mxfp4(i: int, h: int) -> Tensors:
    """gpt-oss as published: rows of gate and up in turn, 32 elements in 16 bytes, with biases."""
    torch.manual_seed(1)
    shapes = {
        "gate_up_proj_blocks": (torch.uint8, (E, 2 * i, h // 32, 16)),
        "gate_up_proj_scales": (torch.uint8, (E, 2 * i, h // 32)),
        "gate_up_proj_bias": (torch.bfloat16, (E, 2 * i)),
        "down_proj_blocks": (torch.uint8, (E, h, i // 32, 16)),
        "down_proj_scales": (torch.uint8, (E, h, i // 32)),
        "down_proj_bias": (torch.bfloat16, (E, h)),
    }
    return {f"{MLP}experts.{name}": bits(*shape) for name, shape in shapes.items()}


def test_mxfp4_is_split_row_by_row(tmp_path: Path) -> None:
    tensors = mxfp4(64, 96)
    source = write(tmp_path / "source", tensors, model_type="gpt_oss", num_local_experts=E)
    assert streamconv.inspect(source).detected.form == "hub"
    streamconv.split(source, tmp_path / "split")
    split = reference.read(tmp_path / "split")
    for place, name in enumerate(("gate_proj", "up_proj")):
        for part, whole in (
            ("weight_blocks", "gate_up_proj_blocks"),
            ("weight_scales", "gate_up_proj_scales"),
            ("bias", "gate_up_proj_bias"),
        ):
            for number in range(E):
                want = tensors[f"{MLP}experts.{whole}"][number, place::2].contiguous()
                got = split[f"{MLP}experts.{number}.{name}.{part}"]
                assert got.view(torch.uint8).equal(want.view(torch.uint8))
    streamconv.convert(tmp_path / "split", tmp_path / "back", to="hub")
    assert reference.same_bytes(tensors, reference.read(tmp_path / "back")) == []
    with pytest.raises(streamconv.PlanRefused, match="could not be distinguished"):
        streamconv.convert(source, tmp_path / "fused", to="fused")
    with pytest.raises(streamconv.PlanRefused, match="has no place"):
        streamconv.convert(source, tmp_path / "turned", to="fused-transposed")


def test_mxfp4_of_one_expert_is_what_transformers_dequantizes_of_all(tmp_path: Path) -> None:
    """Each expert's own blocks and scales, dequantized, are its rows of gate and up, its down."""
    tensors = mxfp4(64, 96)
    for name in ("gate_up_proj_scales", "down_proj_scales"):
        scales = tensors[f"{MLP}experts.{name}"]
        scales.copy_(torch.randint(100, 140, scales.shape, dtype=torch.uint8))
    source = write(tmp_path / "source", tensors, model_type="gpt_oss", num_local_experts=E)
    streamconv.split(source, tmp_path / "split")
    split = reference.read(tmp_path / "split")

    def whole(name: str) -> torch.Tensor:
        blocks, scales = (tensors[f"{MLP}experts.{name}_{part}"] for part in ("blocks", "scales"))
        return convert_moe_packed_tensors(blocks, scales)

    gate_up, down = whole("gate_up_proj"), whole("down_proj")
    assert (gate_up.shape, down.shape) == ((E, 96, 128), (E, 64, 96))
    for number in range(E):
        of_all = (gate_up[number, :, ::2], gate_up[number, :, 1::2], down[number])
        for projection, want in zip(PROJECTIONS, of_all, strict=True):
            name = f"{MLP}experts.{number}.{projection}.weight"
            parts = (split[f"{name}_{part}"].unsqueeze(0) for part in ("blocks", "scales"))
            (own,) = convert_moe_packed_tensors(*parts)
            assert own.equal(want), name


def test_dtypes_below_a_byte_move_as_bytes(tmp_path: Path) -> None:
    """F4 weights with E8M0 scales of 32: fused along whole rows, refused where a row would turn."""
    tensors = experts(
        {
            "weight": (torch.uint8, (48, 16), (32, 24)),
            "weight_scale": (torch.uint8, (48, 1), (32, 1)),
        }
    )
    source = write(tmp_path / "source", tensors)
    path = source / "model.safetensors"
    raw = path.read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:end])
    for name, fields in header.items():
        if name.endswith("weight") and ".experts." in name:
            fields["dtype"] = "F4"
            fields["shape"][-1] *= 2
        elif name.endswith("weight_scale"):
            fields["dtype"] = "F8_E8M0"
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[end:])
    plain = {
        name: info.nbytes for name, info in streamconv.inspect(source).checkpoint.tensors.items()
    }
    streamconv.convert(source, tmp_path / "out", to="fused")
    streamconv.split(tmp_path / "out", tmp_path / "back")
    assert data_of(tmp_path / "back") == data_of(source)
    assert {n: len(b) for n, b in data_of(source).items()} == plain
    with pytest.raises(streamconv.PlanRefused, match="4 bits"):
        streamconv.convert(source, tmp_path / "turned", to="fused-transposed")


def data_of(folder: Path) -> dict[str, bytes]:
    """The bytes of each tensor with its dtype and shape, read by hand: torch lacks the dtypes."""
    raw = (folder / "model.safetensors").read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:end])
    header.pop("__metadata__", None)
    return {
        name: raw[end + fields["data_offsets"][0] : end + fields["data_offsets"][1]]
        for name, fields in header.items()
    }
