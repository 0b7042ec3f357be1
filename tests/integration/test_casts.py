"""Casts and dequantization: the bytes that come out of whole conversions."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import reference
import torch
from dcp_folders import stock
from folders import tree
from safetensors.torch import save_file

import streamconv
from streamconv.planning.manifest import fingerprint
from streamconv.system.resources import peak_bytes

TORCH = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


# --- the bytes ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qwen3-MoE with 12 experts, some NaNs and -0.0 among its weights."""
    return checkpoints.qwen3_moe(tmp_path_factory.mktemp("casts") / "original")


def is_spared(name: str) -> bool:
    return "norm" in name or ".mlp.gate." in name


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("layout", reference.LAYOUTS)
def test_a_cast_composes_with_every_layout(
    original: Path, tmp_path: Path, layout: str, everything: bool
) -> None:
    """The bytes are those of torch's cast, laid out by the formula."""
    streamconv.convert(
        original, tmp_path / "out", to=layout, dtype="fp32", cast_all=everything, jobs=2
    )
    cast = {
        name: tensor if is_spared(name) and not everything else tensor.to(torch.float32)
        for name, tensor in reference.read(original).items()
    }
    wanted = reference.to_layout(cast, layout)
    assert reference.same_bytes(reference.read(tmp_path / "out"), wanted) == []


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("layout", ["fused", "fused-transposed", "per-expert"])
def test_narrowing_portion_by_portion(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, dtype: str
) -> None:
    """From float32 with all its digits, in more portions than one."""
    source = tmp_path / "source"
    source.mkdir()
    generator = torch.Generator().manual_seed(5)
    tensors = {
        name: torch.randn(tensor.shape, generator=generator)
        for name, tensor in reference.read(original).items()
    }
    save_file(tensors, source / "model.safetensors")
    (source / "config.json").write_text((original / "config.json").read_text())
    monkeypatch.setattr("streamconv.sources.wrappers.cast.PORTION_BYTES", 1000)
    streamconv.convert(source, tmp_path / "out", to=layout, dtype=dtype, max_shard_size="100KB")
    cast = {n: t if is_spared(n) else t.to(TORCH[dtype]) for n, t in tensors.items()}
    wanted = reference.to_layout(cast, layout)
    assert reference.same_bytes(reference.read(tmp_path / "out"), wanted) == []


@pytest.fixture(scope="module")
def fp8(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Any]]:
    """A block-scaled checkpoint with blocks that are cut short, and its dequantized tensors."""
    folder = tmp_path_factory.mktemp("fp8") / "checkpoint"
    yield folder, checkpoints.quantized(original, folder)


def without_nans(tensors: reference.Tensors) -> reference.Tensors:
    """Every NaN as the same one: what a product of one carries is not laid down."""
    return {
        name: torch.where(t.isnan(), torch.nan, t) if t.is_floating_point() else t
        for name, t in tensors.items()
    }


@pytest.mark.parametrize("layout", reference.LAYOUTS)
def test_dequantizing_composes_with_every_layout(
    fp8: tuple[Path, Any], tmp_path: Path, layout: str
) -> None:
    """Experts and other matrices alike; no scale is left, and nothing else is touched."""
    source, plain = fp8
    streamconv.convert(source, tmp_path / "out", to=layout, dequantize="bf16")
    found = reference.read(tmp_path / "out")
    wanted = reference.to_layout(plain, layout)
    assert reference.same_bytes(without_nans(found), without_nans(wanted)) == []


def test_into_a_dcp_and_out_of_one(fp8: tuple[Path, Any], original: Path, tmp_path: Path) -> None:
    """Dequantized into a DCP, as torch's own reader has it; cast while one is read."""
    source, plain = fp8
    streamconv.merge(source, tmp_path / "dcp", format="dcp", dequantize="bf16")
    wanted = reference.to_layout(plain, "fused")
    found = stock(tmp_path / "dcp")
    assert reference.same_bytes(without_nans(found), without_nans(wanted)) == []
    streamconv.merge(original, tmp_path / "stored", format="dcp")
    streamconv.split(tmp_path / "stored", tmp_path / "out", template=original, dtype="fp32")
    cast = {n: t if is_spared(n) else t.float() for n, t in reference.read(original).items()}
    assert reference.same_bytes(reference.read(tmp_path / "out"), cast) == []


def test_dequantizing_and_casting_at_once(fp8: tuple[Path, Any], tmp_path: Path) -> None:
    """Scaled weights become the one, other floats the other; each is rounded once."""
    source, plain = fp8
    streamconv.merge(source, tmp_path / "out", dequantize="fp16", dtype="fp32")
    found = reference.read(tmp_path / "out")
    assert found["model.layers.0.mlp.experts.gate_up_proj"].dtype == torch.float16
    assert found["model.layers.0.self_attn.q_proj.weight"].dtype == torch.float16
    assert found["lm_head.weight"].dtype == torch.float32
    assert found["model.norm.weight"].dtype == plain["model.norm.weight"].dtype


def test_merged_fp8_is_dequantized_too(fp8: tuple[Path, Any], tmp_path: Path) -> None:
    """Scales of fused experts count the blocks of each expert's matrix."""
    _, plain = fp8
    generator = torch.Generator().manual_seed(9)
    stored = {n: t for n, t in reference.read(fp8[0]).items() if ".experts." not in n}
    wanted = {name: t for name, t in plain.items() if ".experts." not in name}
    for layer in range(2):
        for weight, shape in (("gate_up_proj", (12, 42, 48)), ("down_proj", (12, 48, 21))):
            name = f"model.layers.{layer}.mlp.experts.{weight}"
            codes = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
            grid = (12, -(-shape[1] // 16), -(-shape[2] // 16))
            scales = torch.rand(grid, generator=generator)
            stored[name], stored[f"{name}_scale_inv"] = codes.view(torch.float8_e4m3fn), scales
            wide = scales.repeat_interleave(16, 1).repeat_interleave(16, 2)
            product = stored[name].float() * wide[:, : shape[1], : shape[2]]
            wanted[name] = product.to(torch.bfloat16).contiguous()
    source = tmp_path / "source"
    source.mkdir()
    save_file(stored, source / "model.safetensors")
    (source / "config.json").write_text((fp8[0] / "config.json").read_text())
    streamconv.convert(
        source, tmp_path / "out", to="fused-transposed", source_layout="fused", dequantize="bf16"
    )
    for name in [name for name in wanted if ".experts." in name]:
        wanted[name] = wanted[name].transpose(1, 2).contiguous()
    found = without_nans(reference.read(tmp_path / "out"))
    assert reference.same_bytes(found, without_nans(wanted)) == []


# --- what is said of it ------------------------------------------------------------------------


def test_casts_are_in_plan_fingerprint_and_manifest(original: Path, tmp_path: Path) -> None:
    """Two castings are two conversions."""
    plans = {
        dtype: streamconv.plan(original, dtype=dtype, cast_all=bool(dtype))
        for dtype in (None, "fp16", "fp32")
    }
    assert len({fingerprint(plan) for plan in plans.values()}) == 3
    assert plans["fp32"].data_bytes == 2 * plans["fp16"].data_bytes
    assert plans["fp16"].data_bytes == plans["fp16"].checkpoint.total_bytes
    streamconv.merge(original, tmp_path / "out", dtype="fp32")
    manifest = json.loads((tmp_path / "out/streamconv.json").read_text())
    assert manifest["casting"] == {"dtype": "F32", "dequantize": None, "all": False}
    rows = {row.pop("tensors"): row for row in manifest["casts"]}
    wanted = {
        "from": "BF16",
        "to": "F32",
        "scaled": False,
        "format": None,
        "quantized": False,
        "count": 24,
    }
    assert rows["model.layers.*.mlp.experts.*.up_proj.weight"] == wanted
    assert not any("norm" in name or "gate.weight" in name for name in rows)
    total = json.loads((tmp_path / "out/streamconv.json").read_text())["shards"]
    assert all((tmp_path / "out" / name).stat().st_size == s["size"] for name, s in total.items())


@pytest.mark.parametrize("jobs", [1, 2])
def test_memory_is_as_projected(tmp_path: Path, jobs: int) -> None:
    """Dequantizing matrices of 8 MB in float32 takes what the plan says."""
    import subprocess
    import sys

    source = tmp_path / "source"
    source.mkdir()
    tensors = {}
    for expert in range(4):
        for name, shape in (("gate_proj", (1024, 2048)), ("up_proj", (1024, 2048))):
            key = f"model.layers.0.mlp.experts.{expert}.{name}.weight"
            tensors[key] = torch.zeros(shape, dtype=torch.uint8).view(torch.float8_e4m3fn)
            tensors[f"{key}_scale_inv"] = torch.ones(shape[0] // 128, shape[1] // 128)
        key = f"model.layers.0.mlp.experts.{expert}.down_proj.weight"
        tensors[key] = torch.zeros(2048, 1024, dtype=torch.uint8).view(torch.float8_e4m3fn)
        tensors[f"{key}_scale_inv"] = torch.ones(16, 8)
    save_file(tensors, source / "model.safetensors")
    (source / "config.json").write_text('{"model_type": "qwen3_moe"}')
    command = ["convert", str(source), str(tmp_path / "out"), "--to", "fused-transposed"]
    options = ["--dequantize", "fp32", "--json", f"-j{jobs}"]
    done = subprocess.run(
        [sys.executable, "-m", "streamconv", *command, *options],
        capture_output=True,
        text=True,
        check=True,
    )
    result = json.loads(done.stdout)
    assert result["peak_memory_bytes"] <= result["projected_peak_bytes"]
    assert result["projected_peak_bytes"] - result["peak_memory_bytes"] < 40e6


def test_memory_of_casts_is_in_the_projection(
    fp8: tuple[Path, Any], original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What casts of a worker take, and nothing where nothing is cast."""
    monkeypatch.setattr("streamconv.planning.limits.peak_bytes", lambda: 0)
    for staging in ("STAGING_BYTES", "COPY_STAGING_BYTES"):  # a small piece needs less than it
        monkeypatch.setattr(f"streamconv.planning.make_plan.{staging}", 0)
    cast = streamconv.plan(fp8[0], dequantize="bf16", jobs=1).memory
    assert cast.casts > 2**20
    needed = cast.peak - cast.base - (cast.source_buffer + cast.staging + cast.casts)
    plain = streamconv.plan(original, jobs=1).memory
    assert plain.casts == 0
    others = plain.peak - plain.base - plain.source_buffer - plain.staging
    assert abs(needed - others) < 2**18, "tables of names and offsets differ a little"


def test_the_same_bytes_however_it_is_run(
    fp8: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers and memory change nothing, not even where reads begin inside rows and blocks."""
    source, _ = fp8
    streamconv.merge(source, tmp_path / "one", dequantize="bf16", jobs=1)
    least = peak_bytes() + 8 * 10**6
    monkeypatch.setattr("streamconv.planning.make_plan.STAGING_BYTES", 4096)
    streamconv.merge(source, tmp_path / "two", dequantize="bf16", jobs=3, max_memory=least * 2)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
