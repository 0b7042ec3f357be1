"""Verification finds no difference where there is none, and sees every kind of checkpoint.

What is verified is made by conversions and, apart from them, by the formulas of `reference.py`.
"""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import jsonschema
import pytest
import reference
from click.testing import CliRunner
from damage import (
    CONFIG,
    LAYER,
    NORM,
    bit_flipped,
    differing,
    drop,
    place,
    relabelled,
    tensors_swapped,
)
from folders import (
    INDEX,
    old_checkpoint,
    qwen_tensors,
    read_shard,
    tensor,
    tree,
    two_shards,
    write_checkpoint,
    write_shard,
    write_sparse,
)
from safetensors.torch import save_file

import streamconv
from streamconv.cli import cli
from streamconv.errors import BadCheckpoint, PlanRefused, UsageError, VerifyFailed
from streamconv.verification import compare as equal

SCHEMA = json.loads((Path(streamconv.__file__).parent / "report" / "schema.json").read_text())


@pytest.fixture(params=["large blocks", "blocks of 64 bytes"])
def _blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """So small that a matrix takes many of them, and panels of it too."""
    if request.param == "blocks of 64 bytes":
        monkeypatch.setattr(equal, "SOURCE_BLOCK_BYTES", 128)
        monkeypatch.setattr(equal, "OUTPUT_BLOCK_BYTES", 64)
        monkeypatch.setattr(equal, "PANEL_WIDTH", 5)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("first", reference.LAYOUTS)
def test_every_pair_of_layouts_is_true(
    converted: Callable[[str], Path], source: Path, first: str
) -> None:
    """Both ways, and with damage to one of them found from either side."""
    for second in reference.LAYOUTS:
        found = streamconv.verify(converted(first), converted(second))
        assert found.differences == ()
        tensors = sum(
            len(t[2]) for p in source.glob("*.safetensors") for t in read_shard(p)[0].values()
        )
        others = sum(
            p.stat().st_size for p in (source / "config.json", source / "notes/readme.txt")
        )
        assert found.checked_bytes == tensors + others


@pytest.mark.parametrize("layout", reference.LAYOUTS)
def test_a_checkpoint_of_another_program_is_true(source: Path, layout: str, tmp_path: Path) -> None:
    """A checkpoint by the formulas, without a record, written by safetensors itself."""
    dst = Path(shutil.copytree(source, tmp_path / "dst"))
    for path in dst.glob("*.safetensors*"):
        path.unlink()
    tensors = reference.to_layout(reference.read(source), layout)
    save_file(tensors, dst / "model.safetensors")
    assert streamconv.verify(source, dst, target_layout=layout).differences == ()
    bit_flipped(NORM)(dst)
    assert differing(streamconv.verify(source, dst, target_layout=layout), dst) == {NORM}


@pytest.mark.parametrize("family", checkpoints.BUILDERS)
def test_forms_with_other_names_are_true(family: str, tmp_path: Path) -> None:
    """Tensors are compared under their hub names; renamed ones that are missing by their own."""
    src = checkpoints.BUILDERS[family](tmp_path / "src")
    for to in ("mindspeed", "transformers"):
        try:
            streamconv.convert(src, tmp_path / to, to=to, max_shard_size="60KB")
        except PlanRefused:
            continue
        assert streamconv.verify(src, tmp_path / to).differences == ()
        assert streamconv.verify(tmp_path / to, src).differences == ()
        (tmp_path / to / "streamconv.json").unlink()
        name = next(n for p in (tmp_path / to).glob("*.safetensors") for n in read_shard(p)[0])
        bit_flipped(name, 0)(tmp_path / to)
        found = streamconv.verify(src, tmp_path / to)
        assert {d.subject for d in found.differences} == {name}


def test_elements_of_half_a_byte(tmp_path: Path) -> None:
    """They are compared where they keep their order."""
    src, dst = tmp_path / "src", tmp_path / "dst"
    write_checkpoint(src, two_shards(qwen_tensors(dtype="F4")), {"model_type": "qwen3_moe"})
    streamconv.convert(src, dst, to="fused")
    assert streamconv.verify(src, dst).differences == ()
    bit_flipped(f"{LAYER}.gate_up_proj")(dst)
    assert differing(streamconv.verify(src, dst), dst) == {
        f"{LAYER}.gate_up_proj, expert 2, up_proj"
    }


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_a_cast_is_compared_with_the_cast_source(source: Path, dtype: str, tmp_path: Path) -> None:
    """Wider and narrower, across a transpose; what is not asked about is said."""
    dst = tmp_path / "dst"
    streamconv.convert(source, dst, to="fused-transposed", dtype=dtype, verify=True)
    found = streamconv.verify(source, dst)
    assert found.ok
    assert any(f"--dtype {'F32' if dtype == 'fp32' else 'F16'}" in u for u in found.unchecked)
    bit_flipped(f"{LAYER}.down_proj")(dst)
    assert differing(streamconv.verify(source, dst), dst) == {f"{LAYER}.down_proj, expert 11"}
    (dst / "streamconv.json").unlink()
    facts = [d.detail for d in streamconv.verify(source, dst).differences]
    assert facts
    assert all("BF16" in fact for fact in facts)


@pytest.mark.parametrize("options", [{"format": "dcp"}, {"preset": "mindspeed"}], ids=str)
def test_a_dcp_is_compared_with_its_source(
    source: Path, options: dict[str, Any], tmp_path: Path
) -> None:
    """Both ways; keys with prefixes have the names that they stand for."""
    dst = tmp_path / "dst"
    result = streamconv.convert(source, dst, to="fused-transposed", verify=True, **options)
    assert result.verification is not None
    assert "a DCP has none" in result.verification.unchecked[0]
    assert streamconv.verify(dst, source).ok
    streamconv.split(dst, tmp_path / "again", verify=True)
    (path,) = dst.rglob("*.distcp")
    raw = bytearray(path.read_bytes())
    norm = place(source, NORM).read()
    at = raw.index(norm)
    raw[at] ^= 1
    path.write_bytes(raw)
    assert differing(streamconv.verify(source, dst), dst) == {NORM}
    (difference,) = streamconv.verify(dst).differences
    assert difference.subject == path.name


@pytest.mark.parametrize("options", [{"format": "dcp"}, {"preset": "mindspeed"}], ids=str)
def test_a_dcp_alone_and_a_cast_one(source: Path, options: dict[str, Any], tmp_path: Path) -> None:
    """The metadata records the written tensors and their casts."""
    dst = tmp_path / "dst"
    streamconv.convert(source, dst, to="fused", dtype="fp32", verify=True, **options)
    assert streamconv.verify(source, dst).ok
    found = streamconv.verify(dst, sha256=True)
    assert (found.differences, found.unchecked) == ((), ())
    (path,) = dst.rglob("*.distcp")
    assert found.checked_bytes == path.stat().st_size
    assert found.sha256 == {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}


@pytest.mark.parametrize("layout", ["fused", "fused-transposed", "stacked"])
def test_scales_are_compared_with_the_source(layout: str, tmp_path: Path) -> None:
    """Of block-scaled FP8, whose axes count blocks."""
    src, dst = tmp_path / "src", tmp_path / "dst"
    tensors = qwen_tensors(experts=12, hidden=8, intermediate=4, dtype="F8_E4M3")
    for name in [name for name in tensors if ".experts." in name]:
        rows, columns = tensors[name][1]
        scale = f"{name}_scale_inv"
        tensors[scale] = tensor(scale, "F32", rows // 2, columns // 2)
    write_checkpoint(src, two_shards(tensors), CONFIG)
    streamconv.convert(src, dst, to=layout, verify=True)
    bit_flipped(f"{LAYER}.down_proj_scale_inv")(dst)
    found = differing(streamconv.verify(src, dst), dst)
    assert found == {f"{LAYER}.down_proj_scale_inv, expert 11"}


INNER = """
[layouts.inner]
used_by = "nobody"
gate_up = "experts.{p}_all : h e i"
down = "experts.{d}_all : i e h"
"""


def test_a_layout_of_the_users_own(source: Path, tmp_path: Path) -> None:
    """Whose experts are not outermost, by those who know it and by those who do not."""
    dst, family = tmp_path / "dst", tmp_path / "family.toml"
    family.write_text(INNER)
    streamconv.convert(source, dst, to="inner", family=family, verify=True)
    assert streamconv.verify(source, dst, family=family).differences == ()
    at = 5 * 12 * place(dst, f"{LAYER}.up_proj_all").shape[2] * 2
    bit_flipped(f"{LAYER}.up_proj_all", at)(dst)
    found = streamconv.verify(source, dst, family=family)
    assert differing(found, dst) == {f"{LAYER}.up_proj_all, expert 0"}
    (unknown,) = streamconv.verify(source, dst).differences
    assert "names inner, which is not known" in unknown.detail


def test_a_partial_output_is_compared_with_its_layers(source: Path, tmp_path: Path) -> None:
    dst = tmp_path / "dst"
    streamconv.merge(source, dst, layers="1:2", max_shard_size="3KB")
    assert streamconv.verify(source, dst).differences == ()
    bit_flipped(f"{LAYER}.down_proj")(dst)
    drop(dst, "model.layers.1.input_layernorm.weight")
    found = differing(streamconv.verify(source, dst), dst)
    assert found == {
        f"{LAYER}.down_proj, expert 11",
        "model.layers.1.input_layernorm.weight",
        INDEX,
    }


def test_a_whole_output_is_no_partial_one(source: Path, tmp_path: Path) -> None:
    """What a partial record leaves out must not be there either."""
    streamconv.merge(source, tmp_path / "part", layers="0:1")
    streamconv.merge(source, tmp_path / "whole")
    found = streamconv.verify(tmp_path / "part", tmp_path / "whole")
    assert f"{LAYER}" in {d.subject for d in found.differences}
    assert all(d.detail == "is not in the source" for d in found.differences)


def test_a_sample_finds_what_is_wrong_everywhere(source: Path, tmp_path: Path) -> None:
    """A mistake in every expert shows in any of them, at a fraction of the bytes."""
    dst = tmp_path / "dst"
    streamconv.convert(source, dst, to="stacked", max_shard_size="3KB")
    whole = streamconv.verify(source, dst)
    part = streamconv.verify(source, dst, sample=0.1)
    assert part.ok
    assert part.checked_bytes < whole.checked_bytes / 3
    assert part.unchecked
    tensors_swapped(f"{LAYER}.gate_proj", f"{LAYER}.up_proj")(dst)
    for _ in range(5):
        found = streamconv.verify(source, dst, sample=0.1)
        assert {d.subject for d in found.differences} == {f"{LAYER}.gate_proj", f"{LAYER}.up_proj"}


@pytest.mark.parametrize("sample", [0.0, 1.5, -1, float("nan")])
def test_a_sample_of_nothing(source: Path, sample: float) -> None:
    with pytest.raises(UsageError, match="cannot read the share"):
        streamconv.verify(source, source, sample=sample)


def test_memory_is_bounded(tmp_path: Path) -> None:
    """Twice 226 MB compared across a transpose, in under 100 MB with the interpreter."""
    src = write_sparse(tmp_path / "src", 1, 24, 2048, 768)
    code = (
        "import sys, streamconv as s; src, dst = sys.argv[1:]\n"
        "s.convert(src, dst, to='fused-transposed')\n"
    )
    check = (
        "import sys, streamconv as s; found = s.verify(*sys.argv[1:])\n"
        "assert found.ok, found; print(found.checked_bytes, found.peak_memory)\n"
    )
    words = [str(src), str(tmp_path / "dst")]
    subprocess.run([sys.executable, "-c", code, *words], check=True, timeout=120)
    done = subprocess.run(
        [sys.executable, "-c", check, *words], check=True, timeout=120, capture_output=True
    )
    checked, peak = map(int, done.stdout.split())
    assert checked > 24 * 3 * 2048 * 768 * 2
    assert peak < 100e6


def test_a_bad_source_is_bad_input(source: Path, tmp_path: Path) -> None:
    src = Path(shutil.copytree(source, tmp_path / "src"))
    place(src, NORM).path.unlink()
    with pytest.raises(BadCheckpoint):
        streamconv.verify(src, source)


def test_an_output_whose_layout_nobody_knows(
    converted: Callable[[str], Path], source: Path, tmp_path: Path
) -> None:
    dst = Path(shutil.copytree(converted("fused-transposed"), tmp_path / "dst"))
    relabelled(dst, "fused-transposed")
    for path in dst.glob("*.safetensors"):
        write_shard(path, read_shard(path)[0])
    (dst / "config.json").write_text((source / "config.json").read_text())
    with pytest.raises(PlanRefused) as caught:
        streamconv.verify(source, dst)
    assert "--to fused-transposed" in caught.value.hint
    assert streamconv.verify(source, dst, target_layout="fused-transposed").ok
    assert any("complete" in text for text in streamconv.verify(dst).unchecked)


def test_a_conversion_verifies_itself(source: Path, tmp_path: Path) -> None:
    result = streamconv.merge(source, tmp_path / "one", verify=True)
    assert result.verification is not None
    assert result.verification.ok
    assert result.verification.checked_bytes > result.plan.data_bytes
    words = ["merge", str(source), str(tmp_path / "two"), "--verify", "--json"]
    done = CliRunner().invoke(cli, words, standalone_mode=False)
    fields = json.loads(done.stdout)
    jsonschema.validate(fields, SCHEMA)
    assert fields["verification"]["ok"]
    words = ["merge", str(source), str(tmp_path / "three"), "--verify"]
    done = CliRunner().invoke(cli, words, standalone_mode=False)
    assert ", verified bit for bit\n" in done.stdout


@pytest.mark.parametrize("form", ["safetensors", "dcp"])
def test_a_wrong_conversion_is_found(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """The writer's own mistakes do not pass: what verifies shares nothing with it. What the result
    was to replace stays, and the partial result is next to it until a run replaces it."""
    from streamconv.execution.transpose import Panel

    write = Panel.write_into

    def wrong(self: Panel, out: memoryview) -> None:
        write(self, out)
        out[0] ^= 1

    dst, partial = tmp_path / "dst", tmp_path / "dst.streamconv-partial"
    old = old_checkpoint(dst)
    options: Any = {"to": "fused-transposed", "format": form, "verify": True}
    with monkeypatch.context() as broken:
        broken.setattr(Panel, "write_into", wrong)
        with pytest.raises(VerifyFailed, match=r"expert") as caught:
            streamconv.merge(source, dst, overwrite=True, **options)
    assert f"{dst} is as it was" in caught.value.hint
    assert not getattr(caught.value, "__notes__", [])
    assert tree(dst) == old
    assert sorted(path.name for path in tmp_path.glob("dst*")) == [dst.name, partial.name]
    found = streamconv.verify(source, partial)
    assert found.differences
    assert all(difference.expert is not None for difference in found.differences)
    with pytest.raises(VerifyFailed):
        streamconv.merge(source, dst, overwrite=True, resume=True, **options)
    result = streamconv.merge(source, dst, overwrite=True, **options)
    assert result.verification is not None
    assert (result.verification.ok, result.verification.path) == (True, str(dst))
    assert [path.name for path in tmp_path.glob("dst*")] == [dst.name]


@pytest.mark.parametrize("to", ["transformers", "fused", "hub"])
def test_a_result_without_a_config_is_of_the_sources_model_type(tmp_path: Path, to: str) -> None:
    """Made of a DCP, which has no config.json to copy; a bit that changes is found."""
    shards, config = {"model.safetensors": qwen_tensors()}, {"model_type": "qwen3_moe"}
    src = write_checkpoint(tmp_path / "src", shards, config)
    dcp, dst = tmp_path / "dcp", tmp_path / "dst"
    streamconv.convert(src, dcp, to="stacked", format="dcp")
    streamconv.convert(dcp, dst, to=to, verify=True)
    assert not (dst / "config.json").exists()
    assert streamconv.verify(dcp, dst).differences == ()
    assert streamconv.verify(dst).differences == ()
    (missing,) = streamconv.verify(src, dst).differences
    assert missing.subject == "config.json"
    (path,) = dst.glob("*.safetensors")
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    assert len(streamconv.verify(dcp, dst).differences) == 1
    assert len(streamconv.verify(dst).differences) == 1
