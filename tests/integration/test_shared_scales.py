"""Numbers that experts or projections share: each gets a copy where they are apart."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import modelopt_export
import pytest
import torch
from quantized import codes8, scales, section
from relaid import MLP, Tensors, bits
from safetensors.torch import load_file, save_file

import streamconv

E, INNER = 3, 32


def write(folder: Path, tensors: Tensors, config: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    said = {"model_type": "in_no_family", "num_experts": E, "num_local_experts": E}
    (folder / "config.json").write_text(json.dumps({**said, **config}))
    return folder


def read(folder: Path) -> Tensors:
    return load_file(folder / "model.safetensors")


def check_same(found: Tensors, want: Tensors) -> None:
    assert sorted(found) == sorted(want)
    for name, tensor in want.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        assert torch.equal(bits(found[name]), bits(tensor.contiguous())), name


def converted(folder: Path, target: Path, to: str, **options: Any) -> Tensors:
    """The tensors of a verified conversion."""
    streamconv.convert(folder, target, to=to, verify=True, **options)
    return read(target)


def one_for_all(shape: tuple[int, ...]) -> tuple[Tensors, dict[str, Tensors]]:
    """Fused experts in FP8 whose numbers have a shape, and by layout what those of gate are."""
    tensors: Tensors = {}
    for name, weight in (("gate_up_proj", codes8(E, 64, 64)), ("down_proj", codes8(E, 64, 32))):
        tensors[f"{MLP}{name}"] = weight
        tensors[f"{MLP}{name}_scale"] = scales(*shape)
        tensors[f"{MLP}{name}_input_scale"] = scales(*shape)
    own: dict[str, Tensors] = {"per-expert": {}, "stacked": {}}
    for name, tensor in tensors.items():
        stem, _, end = name.removeprefix(MLP).partition("_proj")
        halves = tensor.split(INNER, 1) if stem == "gate_up" and not end else (tensor, tensor)
        parts = (
            zip(("gate", "up"), halves, strict=True) if stem == "gate_up" else [("down", tensor)]
        )
        for part, whole in parts:
            ending = {"": ".weight", "_scale": ".weight_scale", "_input_scale": ".input_scale"}[end]
            inner = shape if shape == (1,) else ()
            each = whole if not end else whole.reshape(-1, *inner).expand(E, *inner)
            own["stacked"][f"{MLP}{part}_proj{end}"] = each
            for e in range(E):
                own["per-expert"][f"{MLP}{e}.{part}_proj{ending}"] = each[e]
    return tensors, own


FP8 = section("compressed-tensors", format="float-quantized")


@pytest.mark.parametrize("to", ["per-expert", "stacked"])
@pytest.mark.parametrize("shape", [(), (1,), (E, 1, 1)], ids=str)
def test_each_gets_a_copy(shape: tuple[int, ...], to: str, tmp_path: Path) -> None:
    """Nothing is lost: there and back, each expert has the same numbers, and decodes alike."""
    torch.manual_seed(11)
    tensors, own = one_for_all(shape)
    folder = write(tmp_path / "fused", tensors, FP8)
    options = {"source_layout": "fused"}
    split = converted(folder, tmp_path / "split", to, **options)
    check_same(split, own[to])
    converted(tmp_path / "split", tmp_path / "merged", "fused")
    check_same(converted(tmp_path / "merged", tmp_path / "again", to), split)
    streamconv.verify(folder, tmp_path / "merged", source_layout="fused")
    want = converted(folder, tmp_path / "want", "per-expert", dequantize="bf16", **options)
    check_same(
        converted(tmp_path / "split", tmp_path / "bf16", "per-expert", dequantize="bf16"), want
    )
    gate = tensors[f"{MLP}gate_up_proj"][1, :INNER].float()
    scale = tensors[f"{MLP}gate_up_proj_scale"].flatten()[-2 if shape == (E, 1, 1) else 0]
    assert torch.equal(want[f"{MLP}1.gate_proj.weight"], (gate * scale).bfloat16())


def test_a_copy_that_differs_is_found(tmp_path: Path) -> None:
    torch.manual_seed(12)
    folder = write(tmp_path / "fused", one_for_all(())[0], FP8)
    tensors = converted(folder, tmp_path / "split", "per-expert", source_layout="fused")
    name = f"{MLP}2.up_proj.weight_scale"
    tensors[name] = tensors[name] * 2
    (tmp_path / "split/streamconv.json").unlink()
    save_file(tensors, tmp_path / "split/model.safetensors", metadata={"format": "pt"})
    found = streamconv.verify(folder, tmp_path / "split", source_layout="fused")
    assert [difference.subject for difference in found.differences] == [name]


# --- ModelOpt ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    command = [sys.executable, modelopt_export.__file__, str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    return folder


FAMILIES = {
    "llama4": ("llama4_text", "model.layers.0.feed_forward.experts."),
    "gpt-oss": ("gpt_oss", "model.layers.0.mlp.experts."),
}


def pieces(family: str, numbers: torch.Tensor, name: str) -> dict[str, torch.Tensor]:
    """What each projection has of a tensor whose last dimension counts outputs, turned."""
    if name == "down_proj":
        return {"down_proj": numbers.movedim(-1, 0)}
    pair = numbers.chunk(2, -1) if family == "llama4" else (numbers[..., 0::2], numbers[..., 1::2])
    return {"gate_proj": pair[0].movedim(-1, 0), "up_proj": pair[1].movedim(-1, 0)}


def one_by_one(family: str, made: Tensors, prefix: str) -> Tensors:
    """The tensors of experts in ModelOpt's layout, by formulas: an expert may share a number."""
    split: Tensors = {}
    for key, tensor in made.items():
        name = next(matrix for matrix in modelopt_export.MATRICES if key.startswith(matrix))
        end = key.removeprefix(name).removeprefix("_") or "weight"
        for e in range(E):
            parts = pieces(family, tensor[e] if tensor.dim() else tensor.expand(2), name)
            for part, numbers in parts.items():
                split[f"{prefix}{e}.{part}.{end}"] = numbers if tensor.dim() else tensor
    return split


@pytest.mark.parametrize("kind", ["fp8", "nvfp4"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_modelopt_exports(exported: Path, family: str, kind: str, tmp_path: Path) -> None:
    """Its fused experts are split, merged, and decoded to what its own classes decode."""
    model_type, prefix = FAMILIES[family]
    made = load_file(exported / f"{family}-{kind}.safetensors")
    config = {"model_type": model_type, **section("modelopt", quant_algo=kind.upper())}
    folder = write(tmp_path / "source", {f"{prefix}{n}": t for n, t in made.items()}, config)
    want = one_by_one(family, made, prefix)
    check_same(converted(folder, tmp_path / "split", "per-expert"), want)
    converted(tmp_path / "split", tmp_path / "fused", "fused")
    check_same(converted(tmp_path / "fused", tmp_path / "again", "per-expert"), want)
    decoded = load_file(exported / f"{family}-{kind}.decoded.safetensors")
    biases = {name: tensor for name, tensor in made.items() if name.endswith("_bias")}
    values = one_by_one(family, decoded | biases, prefix)
    check_same(converted(folder, tmp_path / "bf16", "per-expert", dequantize="bf16"), values)


def test_blocks_that_modelopt_exports(exported: Path, tmp_path: Path) -> None:
    """Their scales have two more dimensions, of one element each."""
    made = load_file(exported / "blocks.safetensors")
    assert {made[name].dim() for name in made if name.endswith("_scale")} == {4}
    said = json.loads((exported / "blocks.json").read_text())
    for config in ({"model_type": "llama", **said}, {"model_type": "llama"}):
        folder = write(tmp_path / f"source {len(config)}", made, config)
        out = tmp_path / f"fp32 {len(config)}"
        streamconv.convert(folder, out, to="same", dequantize="fp32")
        check_same(
            load_file(out / "model.safetensors"), load_file(exported / "blocks.decoded.safetensors")
        )
