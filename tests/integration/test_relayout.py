"""Quantized experts in other layouts: the same bytes there and back, and the same values."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from relaid import KINDS, MLP, TRANSPOSED, Tensors, bits, decoded, experts, relaid
from safetensors.torch import load_file, save_file

import streamconv
from streamconv.errors import PlanRefused

CONFIG = {"model_type": "in_no_family", "num_experts": 3}


def write(folder: Path, tensors: Tensors, config: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}))
    return folder


def differing(found: Tensors, want: Tensors) -> list[str]:
    """The names of tensors that are not the same, bit for bit."""
    names = sorted(found.keys() ^ want.keys())
    return names + [
        name
        for name in found.keys() & want.keys()
        if found[name].dtype != want[name].dtype
        or found[name].shape != want[name].shape
        or not torch.equal(bits(found[name]), bits(want[name]))
    ]


def read(folder: Path, layout: str, to: str | None, **options: Any) -> Tensors:
    """All tensors of a folder that has a layout, as those of another."""
    with streamconv.open(folder, to=to, source_layout=layout, **options) as checkpoint:
        return {name: checkpoint[name][...] for name in checkpoint}


@pytest.mark.parametrize("kind", KINDS)
def test_every_layout_from_every_other(kind: str, tmp_path: Path) -> None:
    """The bytes are those of the formulas, from and to each layout that the format can have.

    Every pair of layouts is met by one format in three.
    """
    torch.manual_seed(5)
    make, layouts = KINDS[kind]
    made = experts(make)
    config = made[0]["gate_proj"].config
    want = {layout: relaid(made, layout) for layout in layouts}
    folders = {layout: write(tmp_path / layout, want[layout], config) for layout in layouts}
    for number, (source, folder) in enumerate(folders.items(), [*KINDS].index(kind)):
        for target in [*layouts][number % 3 :: 3] if len(layouts) > 2 else layouts:
            assert differing(read(folder, source, target), want[target]) == [], (source, target)


@pytest.mark.parametrize("kind", KINDS)
def test_the_values_stay(kind: str, tmp_path: Path) -> None:
    """Dequantized from any layout, the experts are what the format's own library decodes."""
    torch.manual_seed(6)
    make, layouts = KINDS[kind]
    made = experts(make)
    want = decoded(made, torch.bfloat16)
    config = made[0]["gate_proj"].config
    for layout in layouts:
        folder = write(tmp_path / layout, relaid(made, layout), config)
        found = read(folder, layout, "per-expert", dequantize="bf16")
        assert differing(found, want) == [], layout


@pytest.mark.parametrize("kind", KINDS)
def test_a_layout_without_a_place_is_refused(kind: str, tmp_path: Path) -> None:
    make, layouts = KINDS[kind]
    made = experts(make)
    folder = write(tmp_path / "source", relaid(made, "per-expert"), made[0]["gate_proj"].config)
    for layout in sorted({*TRANSPOSED} - {*layouts}):
        try:
            read(folder, "per-expert", layout)
        except PlanRefused as refusal:
            assert "no place for" in refusal.message or "inside" in refusal.message
            assert MLP.removesuffix(".").replace("0", "*") in refusal.message
        else:
            pytest.fail(f"{kind} became {layout}")


@pytest.mark.parametrize("kind", ["nvfp4 of modelopt", "gptq, in another order", "fp8 tensor"])
def test_it_is_written_and_verified(kind: str, tmp_path: Path) -> None:
    """A conversion to a fused layout, verified by the other code, and back to the same bytes."""
    make, _ = KINDS[kind]
    made = experts(make)
    one_by_one = relaid(made, "per-expert")
    source = write(tmp_path / "source", one_by_one, made[0]["gate_proj"].config)
    fused = streamconv.convert(source, tmp_path / "fused", to="fused", verify=True)
    assert any("would not load" in warning for warning in fused.plan.target.warnings)
    assert differing(load_file(tmp_path / "fused/model.safetensors"), relaid(made, "fused")) == []
    streamconv.convert(tmp_path / "fused", tmp_path / "back", to="per-expert", verify=True)
    assert differing(load_file(tmp_path / "back/model.safetensors"), one_by_one) == []


def test_outputs_that_share_an_element_are_not_cut_apart(tmp_path: Path) -> None:
    """Eight zero points of AWQ are in an element: with 12 outputs, gate would end inside one."""
    make, _ = KINDS["awq"]
    made = experts(make)
    tensors = relaid(made, "per-expert")
    for name, tensor in tensors.items():
        if ".down_proj.qweight" in name or ".down_proj.qzeros" in name:
            continue
        if ".down_proj." not in name and not name.endswith("scales"):
            tensors[name] = tensor[:, :2].contiguous()  # 12 outputs in two elements
        elif ".down_proj." not in name:
            tensors[name] = tensor[:, :12].contiguous()
    for e in range(3):
        name = f"{MLP}{e}.down_proj.qweight"
        tensors[name] = tensors[name][:12].contiguous()
    folder = write(tmp_path / "source", tensors, made[0]["gate_proj"].config)
    with pytest.raises(PlanRefused, match="8 numbers in an element, and the intermediate size is"):
        read(folder, "per-expert", "fused")


@pytest.mark.parametrize("kind", ["gptq", "awq"])
def test_a_community_quantization(kind: str, tmp_path: Path) -> None:
    """Its config says the method alone: merging is refused by name, and everything else is open."""
    make, _ = KINDS[kind]
    made = experts(make)
    one_by_one = relaid(made, "per-expert")
    config = {"model_type": "qwen2_moe", "quantization_config": {"quant_method": kind}}
    source = write(tmp_path / "source", one_by_one, config)
    with pytest.raises(PlanRefused, match=f"are stored as {kind}, and no layout is known"):
        streamconv.merge(source, tmp_path / "no")
    streamconv.merge(source, tmp_path / "same", pass_through=True, copy=True)
    assert differing(load_file(tmp_path / "same/model.safetensors"), one_by_one) == []
    streamconv.merge(source, tmp_path / "bf16", dequantize="bf16", verify=True)
    want = decoded(made, torch.bfloat16)
    fused = load_file(tmp_path / "bf16/model.safetensors")
    gates = [
        torch.cat([want[f"{MLP}{e}.gate_proj.weight"], want[f"{MLP}{e}.up_proj.weight"]])
        for e in range(3)
    ]
    assert torch.equal(bits(fused[f"{MLP}gate_up_proj"]), bits(torch.stack(gates)))


def test_only_attention_is_quantized(tmp_path: Path) -> None:
    """Its experts are merged, and the codes of attention stay."""
    attention = {
        f"model.layers.0.self_attn.q_proj{end}": tensor
        for end, tensor in KINDS["gptq"][0](64, 64).tensors.items()
    }
    shapes = {"gate_proj": (8, 16), "up_proj": (8, 16), "down_proj": (16, 8)}
    plain = {
        f"{MLP}{e}.{name}.weight": torch.randn(shape).to(torch.bfloat16)
        for name, shape in shapes.items()
        for e in range(3)
    }
    config = {"model_type": "qwen2_moe", "quantization_config": {"quant_method": "gptq"}}
    source = write(tmp_path / "source", {**attention, **plain}, config)
    streamconv.merge(source, tmp_path / "out", verify=True)
    found = load_file(tmp_path / "out/model.safetensors")
    both = [
        torch.cat([plain[f"{MLP}{e}.gate_proj.weight"], plain[f"{MLP}{e}.up_proj.weight"]])
        for e in range(3)
    ]
    downs = [plain[f"{MLP}{e}.down_proj.weight"] for e in range(3)]
    experts_there = {
        f"{MLP}gate_up_proj": torch.stack(both),
        f"{MLP}down_proj": torch.stack(downs),
    }
    assert differing(found, {**attention, **experts_there}) == []


@pytest.mark.parametrize("kind", ["mxfp4 of deepseek-v4", "fp8 blocks called scale"])
def test_deepseek_v4_as_it_is_published(kind: str, tmp_path: Path) -> None:
    """FP4 and FP8 bodies: merged as they are and split again, or merged by their values."""
    make, _ = KINDS[kind]
    made = experts(make)
    names = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}

    def published(tensors: Tensors) -> Tensors:
        renamed = {name.replace(MLP, "layers.0.ffn.experts."): t for name, t in tensors.items()}
        for own, theirs in names.items():
            renamed = {name.replace(own, theirs): t for name, t in renamed.items()}
        return renamed

    tensors = published(relaid(made, "per-expert"))
    config = {**made[0]["gate_proj"].config, "model_type": "deepseek_v4"}
    source = write(tmp_path / "source", tensors, config)
    streamconv.convert(source, tmp_path / "fused", to="fused", verify=True)
    fused = load_file(tmp_path / "fused/model.safetensors")
    want = relaid(made, "fused")
    assert sorted(t.shape for t in fused.values()) == sorted(t.shape for t in want.values())
    assert (
        differing(
            {"codes": fused["layers.0.ffn.experts.gate_up_proj"]},
            {"codes": want[f"{MLP}gate_up_proj"]},
        )
        == []
    )
    streamconv.split(tmp_path / "fused", tmp_path / "back", verify=True)
    assert differing(load_file(tmp_path / "back/model.safetensors"), tensors) == []
    found = read(tmp_path / "fused", "fused", "per-expert", dequantize="bf16")
    assert differing(found, published(decoded(made, torch.bfloat16))) == []


@pytest.mark.parametrize(
    "spelled",
    [
        ("w13_weight.weight", "w2_weight.weight"),
        ("w13_weight", "w2_weight"),
        ("gate_up_proj.weight", "down_proj.weight"),
        ("gate_up_proj", "down_proj"),
    ],
    ids=lambda names: names[0],
)
@pytest.mark.parametrize("kind", ["int4", "fp8 blocks", "nvfp4 of compressed-tensors"])
def test_nested_names(kind: str, spelled: tuple[str, str], tmp_path: Path) -> None:
    """Companions of fused experts are called as somebody calls them, with and without a module."""
    torch.manual_seed(8)
    made = experts(KINDS[kind][0])
    tensors = {}
    for name, tensor in relaid(made, "fused").items():
        matrix = next(m for m in ("gate_up_proj", "down_proj") if name.startswith(MLP + m))
        called = spelled[0 if matrix == "gate_up_proj" else 1]
        end = name.removeprefix(MLP + matrix)
        if called.endswith("weight"):
            # `_scale` of a matrix is `weight_scale` below it, and `_input_scale` has no weight
            end = end if end.startswith("_input") else f"weight{end}"
            called = called.removesuffix("weight")
            end = end.removeprefix("_")
        tensors[f"{MLP}{called}{end}"] = tensor
    folder = write(tmp_path / "spelled", tensors, made[0]["gate_proj"].config)
    assert differing(read(folder, "fused", "per-expert"), relaid(made, "per-expert")) == []


def test_mlx_is_named(tmp_path: Path) -> None:
    """Its experts have names of their own."""
    base = "model.layers.0.mlp.switch_mlp."
    tensors = {}
    for name, (o, i) in {"gate_proj": (32, 8), "up_proj": (32, 8), "down_proj": (64, 4)}.items():
        tensors[f"{base}{name}.weight"] = torch.zeros(3, o, i, dtype=torch.uint32)
        for end in ("scales", "biases"):
            tensors[f"{base}{name}.{end}"] = torch.zeros(3, o, 1, dtype=torch.bfloat16)
    folder = write(tmp_path / "mlx", tensors, {"quantization": {"bits": 4, "group_size": 64}})
    with pytest.raises(PlanRefused, match="they are stored as MLX"):
        streamconv.merge(folder, tmp_path / "out")
