"""Casts and dequantization: what is cast and what spared, and the bytes that come out."""

import json
import math
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
from streamconv.checkpoint.casting import (
    AS_STORED,
    Casting,
    cast_checkpoint,
    parse_casting,
    protected_kind,
)
from streamconv.checkpoint.types import Checkpoint, TensorInfo
from streamconv.errors import BadCheckpoint, PlanRefused, UsageError
from streamconv.formats.safetensors import DTYPE_BITS
from streamconv.planning.manifest import fingerprint
from streamconv.system.resources import peak_bytes

TORCH = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
ROUTERS = (
    "model.layers.0.mlp.gate.weight",
    "model.layers.0.mlp.gate.e_score_correction_bias",
    "model.layers.10.block_sparse_moe.gate.weight",
    "model.layers.1.block_sparse_moe.router.layer.weight",
    "model.layers.1.mlp.router.bias",
    "model.layers.1.mlp.shared_expert_gate.weight",
    "model.layers.1.feed_forward.expert_bias",
    "model.layers.1.mlp.moe_statics.e_score_correction_bias",
    "thinker.model.layers.3.mlp.gate.weight",
)
NORMS = (
    "model.norm.weight",
    "model.layers.0.input_layernorm.weight",
    "model.layers.0.self_attn.q_norm.weight",
    "visual.merger.ln_q.weight",
    "visual.blocks.0.norm1.bias",
    "vision_model.encoder.layers.0.layer_norm1.weight",
    "mlp1.0.weight",
)
OTHERS = (
    "model.embed_tokens.weight",
    "lm_head.weight",
    "model.layers.0.mlp.gate_proj.weight",
    "model.layers.0.mlp.experts.11.gate_proj.weight",
    "model.layers.0.mlp.experts.gate_up_proj",
    "model.layers.0.mlp.experts.gate_up_proj_bias",
    "model.layers.0.self_attn.q_proj.bias",
    "mlp1.1.weight",
)


# --- what is cast ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "kind"), [(ROUTERS, "router"), (NORMS, "norm"), (OTHERS, None)], ids=str
)
def test_routers_and_norms_are_told_by_name(names: tuple[str, ...], kind: str | None) -> None:
    """And a projection called gate is no router."""
    assert {name: protected_kind(name) for name in names} == dict.fromkeys(names, kind)


def info(name: str, dtype: str = "F32", *shape: int) -> TensorInfo:
    return TensorInfo(name, dtype, shape, "f", 0, math.prod(shape) * DTYPE_BITS[dtype] // 8)


def stored(*tensors: TensorInfo, **config: object) -> Checkpoint:
    by_name = {tensor.name: tensor for tensor in tensors}
    return Checkpoint("here", by_name, (), (), config, None, 0)


def dtypes(checkpoint: Checkpoint, casting: Casting) -> dict[str, str]:
    return {name: t.dtype for name, t in cast_checkpoint(checkpoint, casting).tensors.items()}


def test_only_floats_are_cast_and_what_is_spared_is_not() -> None:
    """Integers, and floats that mean something only with their scales, stay."""
    dtypes_here = ("F64", "F32", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "F4", "F8_E8M0")
    names = {f"a.{dtype}": dtype for dtype in dtypes_here}
    protected = {"a.norm.weight": "F32", "a.gate.weight": "F32", "a.w_scale_inv": "F32"}
    checkpoint = stored(*(info(name, dtype, 8) for name, dtype in (names | protected).items()))
    assert dtypes(checkpoint, AS_STORED) == names | protected
    floats = {f"a.{dtype}": "BF16" for dtype in ("F64", "F32", "F16", "BF16")}
    assert dtypes(checkpoint, Casting("BF16")) == names | protected | floats
    everything = floats | {"a.norm.weight": "BF16", "a.gate.weight": "BF16"}
    assert dtypes(checkpoint, Casting("BF16", everything=True)) == names | protected | everything


def test_a_cast_tensor_has_its_new_size_and_knows_its_old_one() -> None:
    """What is of the dtype already is not cast."""
    checkpoint = stored(info("a", "BF16", 3, 5), info("b", "F32", 7))
    found = cast_checkpoint(checkpoint, Casting("F32")).tensors
    assert (found["a"].nbytes, found["a"].shape) == (60, (3, 5))
    assert found["a"].stored == (checkpoint.tensors["a"],)
    assert found["b"] is checkpoint.tensors["b"]
    assert found["b"].stored == (found["b"],)


@pytest.mark.parametrize("given", ["float32", "BF16", "fp8", ""])
def test_a_dtype_that_there_is_not(given: str) -> None:
    with pytest.raises(UsageError, match="bf16, fp16, fp32"):
        try:
            parse_casting(given, None, False)
        except UsageError as error:
            raise UsageError(f"{error.message} {error.hint}") from None
    with pytest.raises(UsageError, match="no dtype"):
        parse_casting(None, given, False)


def test_cast_all_without_a_dtype_says_nothing() -> None:
    with pytest.raises(UsageError, match="--cast-all"):
        parse_casting(None, "bf16", True)


# --- what is dequantized -----------------------------------------------------------------------


def block_of(
    shape: tuple[int, ...], grid: tuple[int, ...], stated: object = None
) -> tuple[int, int]:
    quantization = {"quantization_config": {"weight_block_size": stated}} if stated else {}
    checkpoint = stored(
        info("a.weight", "F8_E4M3", *shape),
        info("a.weight_scale_inv", "F32", *grid),
        **quantization,
    )
    found = cast_checkpoint(checkpoint, Casting(dequantize="BF16")).tensors
    assert list(found) == ["a.weight"]
    weight = found["a.weight"]
    assert (weight.dtype, weight.nbytes) == ("BF16", 2 * math.prod(shape))
    assert weight.stored == tuple(checkpoint.tensors.values())
    assert weight.cast is not None
    return weight.cast.block


@pytest.mark.parametrize(
    ("shape", "grid", "stated", "block"),
    [
        ((256, 384), (2, 3), [128, 128], (128, 128)),
        ((576, 7168), (5, 56), [128, 128], (128, 128)),
        ((192, 128), (2, 1), [128, 128], (128, 128)),
        ((192, 128), (2, 1), None, (96, 128)),
        ((256, 64), (256, 2), [128, 128], (1, 32)),
        ((4, 256, 128), (4, 2, 1), None, (128, 128)),
        ((256, 128), (), None, (256, 128)),
        ((256, 128), (1,), [128, 128], (256, 128)),
    ],
)
def test_the_block_is_the_configs_or_the_shapes(
    shape: tuple[int, ...], grid: tuple[int, ...], stated: object, block: tuple[int, int]
) -> None:
    """A last block that is cut short is told by the config alone."""
    assert block_of(shape, grid, stated) == block


@pytest.mark.parametrize(
    ("shape", "grid", "stated"),
    [
        ((576, 7168), (5, 56), None),
        ((576, 7168), (5, 56), [64, 128]),
        ((256, 128), (2,), [128, 128]),
        ((4, 256, 128), (2, 1), [128, 128]),
        ((256,), (2,), [128, 128]),
        ((256, 128), (0, 1), [128, 128]),
    ],
)
def test_scales_that_do_not_fit(
    shape: tuple[int, ...], grid: tuple[int, ...], stated: object
) -> None:
    with pytest.raises(
        BadCheckpoint, match=r"a.weight_scale_inv has shape .* no blocks of"
    ) as error:
        block_of(shape, grid, stated)
    assert ("config.json says" in error.value.message) == (stated is not None)


@pytest.mark.parametrize(
    ("tensors", "error", "says"),
    [
        ([info("a", "BF16", 4)], PlanRefused, "holds nothing to dequantize"),
        ([info("a.weight_scale_inv", "F32", 1)], BadCheckpoint, "its weight is missing"),
        (
            [info("a", "F8_E4M3", 1, 1), info("a_scale_inv"), info("b", "F8_E4M3", 1, 1)],
            BadCheckpoint,
            "b is F8_E4M3, and there is no b_scale_inv",
        ),
        ([info("a", "I8", 1, 1), info("a_scale_inv")], PlanRefused, "a is I8 with scales"),
        ([info("a", "F8_E4M3", 1, 1), info("a_scale_inv", "I32")], PlanRefused, "is I32"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_dequantized(
    tensors: list[TensorInfo], error: type[streamconv.StreamconvError], says: str
) -> None:
    with pytest.raises(error, match=says):
        cast_checkpoint(stored(*tensors), Casting(dequantize="BF16"))


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
    """A block-scaled checkpoint, some of whose blocks are cut short, and what it stands for."""
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
    assert (tmp_path / "out/config.json").read_bytes() == (source / "config.json").read_bytes()


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
    """Scales beside fused experts count the blocks of each expert's matrix."""
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
    wanted = {"from": "BF16", "to": "F32", "scaled": False, "count": 24}
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


def test_what_casts_take_is_in_the_projection(fp8: tuple[Path, Any], original: Path) -> None:
    """Of every worker, and nothing where nothing is cast."""
    cast = streamconv.plan(fp8[0], dequantize="bf16", jobs=2).memory
    assert cast.casts > 2**20
    needed = cast.peak - cast.base - 2 * (cast.source_buffer + cast.casts)
    plain = streamconv.plan(original, jobs=2).memory
    assert plain.casts == 0
    assert needed == plain.peak - plain.base - 2 * plain.source_buffer


def test_the_same_bytes_however_it_is_run(
    fp8: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers and memory change nothing, not even where reads begin inside rows and blocks."""
    source, _ = fp8
    streamconv.merge(source, tmp_path / "one", dequantize="bf16", jobs=1)
    least = peak_bytes() + 8 * 10**6
    monkeypatch.setattr("streamconv.planning.memory.STAGING_BYTES", 4096)
    streamconv.merge(source, tmp_path / "two", dequantize="bf16", jobs=3, max_memory=least * 2)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
