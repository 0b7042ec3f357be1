"""Quantized experts in other layouts: the same bytes there and back, and the same values."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from relaid import KINDS, MLP, NO_VALUES, TRANSPOSED, Tensors, bits, decoded, experts, relaid
from safetensors.torch import load_file, save_file

import streamconv
from streamconv.errors import BadCheckpoint, PlanRefused

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
    """The bytes are those of the formulas, in all pairs of layouts that the format can have."""
    torch.manual_seed(5)
    make, layouts = KINDS[kind]
    made = experts(make)
    config = made[0]["gate_proj"].config
    want = {layout: relaid(made, layout) for layout in layouts}
    folders = {layout: write(tmp_path / layout, want[layout], config) for layout in layouts}
    for source, folder in folders.items():
        for target in layouts:
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
        if (kind, layout) in NO_VALUES:
            with pytest.raises(BadCheckpoint, match=r"does not (divide|say)"):
                read(folder, layout, "per-expert", dequantize="bf16")
            continue
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
