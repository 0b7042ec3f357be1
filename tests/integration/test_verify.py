"""Verification finds each kind of damage and names it, and finds none where there is none.

What is verified is made by conversions and, apart from them, by the formulas of `reference.py`;
what is damaged is damaged by editing bytes of files. Nothing that converts is used to verify.
"""

import ast
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import checkpoints
import jsonschema
import pytest
import reference
from click.testing import CliRunner
from folders import (
    INDEX,
    Tensors,
    qwen_tensors,
    read_shard,
    tensor,
    tree,
    two_shards,
    write_checkpoint,
    write_shard,
    write_sparse,
)
from import_graph import graph
from safetensors.torch import save_file

import streamconv
from streamconv.cli import cli
from streamconv.errors import BadCheckpoint, PlanRefused, UsageError, VerifyFailed
from streamconv.verification import compare as equal
from streamconv.verification.result import Verification

LAYER = "model.layers.1.mlp.experts"
CONFIG = {"model_type": "qwen3_moe", "num_experts": 12}


# --- making and damaging -----------------------------------------------------------------------


@pytest.fixture(scope="module", params=["H = 2I", "H = I"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve experts a layer in which gate_up as a whole, or down, is square."""
    intermediate = 6 if request.param == "H = 2I" else 12
    tensors = qwen_tensors(experts=12, hidden=12, intermediate=intermediate)
    tensors["model.scale"] = tensor("model.scale", "F32", 3)
    src = write_checkpoint(tmp_path_factory.mktemp("source") / "src", two_shards(tensors), CONFIG)
    (src / "notes").mkdir()
    (src / "notes" / "readme.txt").write_text("travels along")
    return src


@dataclass(frozen=True)
class Place:
    """Where a tensor's bytes are."""

    path: Path
    start: int
    shape: tuple[int, ...]
    nbytes: int

    def read(self) -> bytes:
        return self.path.read_bytes()[self.start : self.start + self.nbytes]

    def write(self, data: bytes) -> None:
        assert len(data) == self.nbytes
        assert data != self.read()
        raw = self.path.read_bytes()
        self.path.write_bytes(raw[: self.start] + data + raw[self.start + self.nbytes :])


def place(folder: Path, name: str) -> Place:
    for path in folder.glob("*.safetensors"):
        raw = path.read_bytes()
        start = 8 + int.from_bytes(raw[:8], "little")
        field = json.loads(raw[8:start]).get(name)
        if field:
            begin, end = field["data_offsets"]
            return Place(path, start + begin, tuple(field["shape"]), end - begin)
    raise AssertionError(f"{name} is nowhere")


def swap(data: bytes, one: slice, other: slice) -> bytes:
    changed = bytearray(data)
    changed[one], changed[other] = data[other], data[one]
    return bytes(changed)


def nth(k: int, nbytes: int) -> slice:
    return slice(k * nbytes, (k + 1) * nbytes)


def experts_swapped(name: str, one: int, other: int) -> Callable[[Path], None]:
    def damage(dst: Path) -> None:
        there = place(dst, f"{LAYER}.{name}")
        each = there.nbytes // 12
        there.write(swap(there.read(), nth(one, each), nth(other, each)))

    return damage


def tensors_swapped(one: str, other: str) -> Callable[[Path], None]:
    def damage(dst: Path) -> None:
        first, second = place(dst, one), place(dst, other)
        data = first.read()
        first.write(second.read())
        second.write(data)

    return damage


def halves_swapped(dst: Path) -> None:
    """Up where gate should be, in expert 4 of a fused layer."""
    there = place(dst, f"{LAYER}.gate_up_proj")
    half = there.nbytes // 24
    there.write(swap(there.read(), nth(8, half), nth(9, half)))


def transposed(name: str, expert: int | None = None) -> Callable[[Path], None]:
    """One square matrix, or all of a tensor's, the other way round."""

    def damage(dst: Path) -> None:
        there = place(dst, f"{LAYER}.{name}")
        rows, columns = there.shape[-2:]
        assert rows == columns
        each = rows * columns * 2
        data = bytearray(there.read())
        for k in range(len(data) // each) if expert is None else [expert]:
            matrix = data[nth(k, each)]
            data[nth(k, each)] = b"".join(
                matrix[(i * columns + j) * 2 :][:2] for j in range(columns) for i in range(rows)
            )
        there.write(bytes(data))

    return damage


def bit_flipped(name: str, at: int = -1) -> Callable[[Path], None]:
    def damage(dst: Path) -> None:
        there = place(dst, name)
        data = bytearray(there.read())
        data[at] ^= 1
        there.write(bytes(data))

    return damage


def rewritten(change: Callable[[Tensors], object]) -> Callable[[Path], None]:
    """Other tensors in the first shard, and an index that fits them."""

    def damage(dst: Path) -> None:
        path = next(p for p in dst.glob("*.safetensors") if "model.norm.weight" in read_shard(p)[0])
        tensors, metadata = read_shard(path)
        change(tensors)
        write_shard(path, tensors, metadata)
        shards = {p.name: read_shard(p)[0] for p in dst.glob("*.safetensors")}
        total = sum(len(t[2]) for held in shards.values() for t in held.values())
        weight_map = {name: file for file, held in shards.items() for name in held}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (dst / INDEX).write_text(json.dumps(index))

    return damage


def indexed(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def damage(dst: Path) -> None:
        index = json.loads((dst / INDEX).read_text())
        change(index)
        (dst / INDEX).write_text(json.dumps(index))

    return damage


def lost_expert(dst: Path) -> None:
    for projection in ("gate_proj", "up_proj", "down_proj"):
        drop(dst, f"{LAYER}.11.{projection}.weight")


def drop(dst: Path, name: str) -> None:
    path = place(dst, name).path
    tensors, metadata = read_shard(path)
    del tensors[name]
    write_shard(path, tensors, metadata)
    indexed(lambda index: index["weight_map"].pop(name))(dst)


Damage = Callable[[Path], object]
NORM = "model.norm.weight"
FUSED = ("fused", "fused-transposed", "fused-flat", "fused-interleaved")

DAMAGES: dict[str, tuple[tuple[str, ...], Damage, tuple[str, ...]]] = {
    "two experts of gate and up exchanged": (
        FUSED,
        experts_swapped("gate_up_proj", 2, 10),
        tuple(
            f"{LAYER}.gate_up_proj, expert {e}, {p}_proj" for e in (2, 10) for p in ("gate", "up")
        ),
    ),
    "two experts of down exchanged": (
        (*FUSED, "stacked"),
        experts_swapped("down_proj", 0, 11),
        (f"{LAYER}.down_proj, expert 0", f"{LAYER}.down_proj, expert 11"),
    ),
    "two experts of up exchanged": (
        ("stacked",),
        experts_swapped("up_proj", 2, 10),
        (f"{LAYER}.up_proj, expert 2", f"{LAYER}.up_proj, expert 10"),
    ),
    "two experts' files exchanged": (
        ("per-expert",),
        tensors_swapped(f"{LAYER}.2.up_proj.weight", f"{LAYER}.10.up_proj.weight"),
        (f"{LAYER}.2.up_proj.weight", f"{LAYER}.10.up_proj.weight"),
    ),
    "gate and up exchanged in one expert": (
        ("fused",),
        halves_swapped,
        tuple(f"{LAYER}.gate_up_proj, expert 4, {p}_proj" for p in ("gate", "up")),
    ),
    "gate and up exchanged": (
        ("stacked",),
        tensors_swapped(f"{LAYER}.gate_proj", f"{LAYER}.up_proj"),
        tuple(f"{LAYER}.{p}_proj, expert {e}" for p in ("gate", "up") for e in range(12)),
    ),
    "gate and up exchanged in one expert's tensors": (
        ("per-expert",),
        tensors_swapped(f"{LAYER}.3.gate_proj.weight", f"{LAYER}.3.up_proj.weight"),
        tuple(f"{LAYER}.3.{p}_proj.weight" for p in ("gate", "up")),
    ),
    "one bit of an expert": (
        FUSED,
        bit_flipped(f"{LAYER}.gate_up_proj"),
        (f"{LAYER}.gate_up_proj, expert 11, up_proj",),
    ),
    "the first bit of an expert": (
        FUSED,
        bit_flipped(f"{LAYER}.gate_up_proj", 0),
        (f"{LAYER}.gate_up_proj, expert 0, gate_proj",),
    ),
    "one bit of one expert's tensor": (
        ("per-expert",),
        bit_flipped(f"{LAYER}.7.down_proj.weight", 5),
        (f"{LAYER}.7.down_proj.weight",),
    ),
    "one bit of another tensor": (("fused",), bit_flipped(NORM), (NORM,)),
    "one bit of a scalar's neighbour": (
        ("fused",),
        bit_flipped("model.scale", 0),
        ("model.scale",),
    ),
    "a tensor lost": (("fused",), rewritten(lambda t: t.pop(NORM)), (NORM,)),
    "a tensor added": (
        ("fused",),
        rewritten(lambda t: t.update(extra=tensor("extra", "BF16", 3))),
        ("extra",),
    ),
    "a tensor under another name": (
        ("fused",),
        rewritten(lambda t: t.update({"model.nrom.weight": t.pop(NORM)})),
        (NORM, "model.nrom.weight"),
    ),
    "another dtype of the same width": (
        ("fused",),
        rewritten(lambda t: t.update({NORM: ("F16", *t[NORM][1:])})),
        (NORM,),
    ),
    "another shape": (
        ("fused",),
        rewritten(lambda t: t.update({NORM: (*t[NORM][:1], (1, 12), t[NORM][2])})),
        (NORM,),
    ),
    "an expert lost": (("per-expert",), lost_expert, ("DST",)),
    "a wrong total": (("fused",), indexed(lambda i: i["metadata"].update(total_size=1)), (INDEX,)),
    "a total in quotes": (
        ("fused",),
        indexed(lambda i: i["metadata"].update(total_size="1")),
        (INDEX,),
    ),
    "a stale index": (("fused",), indexed(lambda i: i["weight_map"].pop(NORM)), ("DST",)),
    "an index with a tensor more": (
        ("fused",),
        indexed(lambda i: i["weight_map"].update(ghost=i["weight_map"][NORM])),
        ("DST",),
    ),
    "a second index": (
        ("fused",),
        lambda dst: shutil.copy(dst / INDEX, dst / "x.safetensors.index.json"),
        ("x.safetensors.index.json",),
    ),
    "a stale shard": (
        ("fused",),
        lambda dst: shutil.copy(place(dst, NORM).path, dst / "stale.safetensors"),
        ("stale.safetensors",),
    ),
    "a shard cut short": (
        ("fused",),
        lambda dst: os.truncate(place(dst, NORM).path, place(dst, NORM).path.stat().st_size - 1),
        ("DST",),
    ),
    "a shard lost": (("fused",), lambda dst: place(dst, NORM).path.unlink(), ("DST",)),
    "another file changed": (
        ("fused",),
        lambda dst: (dst / "notes" / "readme.txt").write_text("travels alonG"),
        ("notes/readme.txt",),
    ),
    "another file longer": (
        ("fused",),
        lambda dst: (dst / "config.json").write_text(json.dumps({**CONFIG, "x": 1})),
        ("config.json",),
    ),
    "another file lost": (
        ("fused",),
        lambda dst: (dst / "notes" / "readme.txt").unlink(),
        ("notes/readme.txt",),
    ),
    "another file added": (("fused",), lambda dst: (dst / "code.py").write_text("1"), ("code.py",)),
    "a manifest of casts that there are not": (
        ("fused",),
        lambda dst: (path := dst / "streamconv.json").write_text(
            json.dumps({**json.loads(path.read_text()), "casting": {"dtype": "\x1b[31m"}})
        ),
        ("streamconv.json",),
    ),
    "the record of another layout": (
        ("fused-transposed",),
        lambda dst: relabelled(dst, "fused-interleaved"),
        tuple(
            f"model.layers.{n}.mlp.experts.gate_up_proj, expert {e}, {p}_proj"
            for n in range(2)
            for e in range(12)
            for p in ("gate", "up")
        ),
    ),
}
SQUARE: dict[str, tuple[tuple[str, ...], Damage, tuple[str, ...]]] = {
    "H = I": (
        ("fused", "fused-transposed", "stacked"),
        transposed("down_proj", 5),
        (f"{LAYER}.down_proj, expert 5",),
    ),
    "H = 2I": (
        ("fused-transposed", "fused"),
        transposed("gate_up_proj"),
        tuple(
            f"{LAYER}.gate_up_proj, expert {e}, {p}_proj" for e in range(12) for p in ("gate", "up")
        ),
    ),
}


def relabelled(dst: Path, layout: str) -> None:
    """A checkpoint that says of itself that it has another layout."""
    for path in dst.glob("*.safetensors"):
        tensors, metadata = read_shard(path)
        record = json.loads(metadata["streamconv"])
        for stack in record["stacks"].values():
            stack["layout"] = layout
        write_shard(path, tensors, {**metadata, "streamconv": json.dumps(record)})
    (dst / "streamconv.json").unlink()


def differing(found: Verification, dst: Path) -> set[str]:
    """Where there are differences; the checkpoint as a whole is DST."""
    assert found.difference_count == len(found.differences)
    assert found.ok == (not found.differences)
    return {"DST" if d.subject == str(dst) else d.where for d in found.differences}


@pytest.fixture(params=["blocks of 4 MiB", "blocks of 64 bytes"])
def _blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """So small that a matrix takes many of them, and panels of it too."""
    if request.param == "blocks of 64 bytes":
        monkeypatch.setattr(equal, "BLOCK_BYTES", 64)
        monkeypatch.setattr(equal, "PANEL_WIDTH", 5)


@pytest.fixture(scope="module")
def converted(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The source in a layout, made once."""
    made: dict[str, Path] = {}

    def convert(layout: str) -> Path:
        if layout not in made:
            made[layout] = tmp_path_factory.mktemp(layout) / "dst"
            streamconv.convert(source, made[layout], to=layout, max_shard_size="3KB")
        return made[layout]

    return convert


CASES = [
    pytest.param(layout, damage, where, id=f"{name}, {layout}")
    for name, (layouts, damage, where) in DAMAGES.items()
    for layout in layouts
]


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize(("layout", "damage", "where"), CASES)
def test_damage_is_found_and_named(
    converted: Callable[[str], Path],
    source: Path,
    layout: str,
    damage: Damage,
    where: tuple[str, ...],
    tmp_path: Path,
) -> None:
    dst = Path(shutil.copytree(converted(layout), tmp_path / "dst"))
    damage(dst)
    assert differing(streamconv.verify(source, dst), dst) == set(where)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("layout", reference.LAYOUTS)
def test_a_transpose_missed_where_the_matrix_is_square(
    converted: Callable[[str], Path], source: Path, layout: str, tmp_path: Path
) -> None:
    shape = place(source, f"{LAYER}.0.down_proj.weight").shape
    layouts, damage, where = SQUARE["H = I" if shape[0] == shape[1] else "H = 2I"]
    if layout not in layouts:
        return
    dst = Path(shutil.copytree(converted(layout), tmp_path / "dst"))
    damage(dst)
    found = differing(streamconv.verify(source, dst), dst)
    assert found == set(where)


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
def test_what_others_made_is_true(source: Path, layout: str, tmp_path: Path) -> None:
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


def test_any_changed_byte_is_found(
    converted: Callable[[str], Path], source: Path, tmp_path: Path
) -> None:
    """Wherever it is; the tensor that it belongs to is named."""
    draw = random.Random(7)
    dst = Path(shutil.copytree(converted("fused-interleaved"), tmp_path / "dst"))
    names = [n for path in dst.glob("*.safetensors") for n in read_shard(path)[0]]
    for _ in range(40):
        name = draw.choice(names)
        there = place(dst, name)
        sound = there.read()
        data = bytearray(sound)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        there.write(bytes(data))
        found = streamconv.verify(source, dst)
        assert [d.subject for d in found.differences] == [name]
        assert "(1 of " in found.differences[0].detail
        there.write(sound)
    assert streamconv.verify(source, dst).ok


def test_a_fact_names_both_sides(
    converted: Callable[[str], Path], source: Path, tmp_path: Path
) -> None:
    dst = Path(shutil.copytree(converted("fused"), tmp_path / "dst"))
    bit_flipped(f"{LAYER}.gate_up_proj")(dst)
    (difference,) = streamconv.verify(source, dst).differences
    assert difference.expert == 11
    assert f"{LAYER}.11.up_proj.weight of the source" in difference.detail


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
def test_a_cast_is_held_against_the_source_cast(source: Path, dtype: str, tmp_path: Path) -> None:
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
def test_a_dcp_is_held_against_its_source(
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
    """What was written, and how it was cast, stands in its metadata."""
    dst = tmp_path / "dst"
    streamconv.convert(source, dst, to="fused", dtype="fp32", verify=True, **options)
    assert streamconv.verify(source, dst).ok
    found = streamconv.verify(dst, sha256=True)
    assert (found.differences, found.unchecked) == ((), ())
    (path,) = dst.rglob("*.distcp")
    assert found.checked_bytes == path.stat().st_size
    assert found.sha256 == {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}


@pytest.mark.parametrize("layout", ["fused", "fused-transposed", "stacked"])
def test_scales_are_held_against_the_source(layout: str, tmp_path: Path) -> None:
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


# --- partial, sampled, in bounded memory -------------------------------------------------------


def test_a_partial_output_is_held_against_its_layers(source: Path, tmp_path: Path) -> None:
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
    with pytest.raises(UsageError, match="sample"):
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


# --- against the manifest ----------------------------------------------------------------------

ALONE: dict[str, tuple[Damage, tuple[str, ...]]] = {
    "one bit of a tensor": (bit_flipped(NORM), ("SHARD",)),
    "one bit of an expert": (bit_flipped(f"{LAYER}.down_proj", 0), ("SHARD",)),
    "a changed header": (
        lambda dst: (path := place(dst, NORM).path).write_bytes(
            path.read_bytes().replace(b'"format":"pt"', b'"format":"tf"')
        ),
        ("SHARD",),
    ),
    "another file changed": (
        lambda dst: (dst / "notes" / "readme.txt").write_text("travels alonG"),
        ("notes/readme.txt",),
    ),
    "another file lost": (lambda dst: (dst / "config.json").unlink(), ("config.json",)),
    "another file longer": (
        lambda dst: (dst / "notes" / "readme.txt").write_text("travels along!"),
        ("notes/readme.txt",),
    ),
    "another file added": (lambda dst: (dst / "code.py").write_text("1"), ("code.py",)),
    "a stale shard": (
        lambda dst: shutil.copy(place(dst, NORM).path, dst / "stale.safetensors"),
        ("stale.safetensors",),
    ),
    "the index in other words": (
        lambda dst: (dst / INDEX).write_text((dst / INDEX).read_text().replace("  ", " ")),
        (INDEX,),
    ),
    "a shard cut short": (
        lambda dst: os.truncate(place(dst, NORM).path, place(dst, NORM).path.stat().st_size - 1),
        ("DST",),
    ),
    "a manifest that is no JSON": (
        lambda dst: (dst / "streamconv.json").write_text("{"),
        ("DST",),
    ),
    **{
        f"a manifest with {what}": (
            lambda dst, change=change: (path := dst / "streamconv.json").write_text(
                json.dumps(change(json.loads(path.read_text())))
            ),
            ("streamconv.json",),
        )
        for what, change in {
            "no shards": lambda m: {k: v for k, v in m.items() if k != "shards"},
            "shards in a list": lambda m: {**m, "shards": []},
            "pieces that are numbers": lambda m: {
                **m,
                "shards": {n: {**s, "pieces": [1]} for n, s in m["shards"].items()},
            },
            "pieces that are not all": lambda m: {
                **m,
                "shards": {n: {**s, "pieces": s["pieces"][1:]} for n, s in m["shards"].items()},
            },
            "a negative size": lambda m: {
                **m,
                "files": {n: {**f, "size": -1} for n, f in m["files"].items()},
            },
            "another digest": lambda m: {**m, "digest": "crc32"},
        }.items()
    },
}


@pytest.mark.parametrize(("damage", "where"), ALONE.values(), ids=ALONE)
def test_damage_shows_against_the_manifest(
    converted: Callable[[str], Path], damage: Damage, where: tuple[str, ...], tmp_path: Path
) -> None:
    dst = Path(shutil.copytree(converted("fused"), tmp_path / "dst"))
    shards = {path.name for path in dst.glob("*-of-*.safetensors")}
    damage(dst)
    found = streamconv.verify(dst)
    names = {"SHARD" if name in shards else name for name in differing(found, dst)}
    assert names == set(where)
    if names == {"SHARD"}:
        assert "bytes " in found.differences[0].detail


def test_the_tensors_of_a_damaged_piece_are_named(tmp_path: Path) -> None:
    """The piece that holds them, and no other."""
    src, dst = write_sparse(tmp_path / "src", 1, 4, 1024, 768), tmp_path / "dst"
    streamconv.convert(src, dst, to="fused")
    for name in ("gate_up_proj", "down_proj"):
        there = place(dst, f"model.layers.0.mlp.experts.{name}")
        with there.path.open("r+b") as file:
            file.seek(there.start + there.nbytes - 1)
            file.write(b"1")
    pieces = json.loads((dst / "streamconv.json").read_text())["shards"]["model.safetensors"]
    facts = [difference.detail for difference in streamconv.verify(dst).differences]
    assert len(facts) == len(pieces["pieces"]) == 2
    assert all("experts.gate_up_proj" in f or "experts.down_proj" in f for f in facts)


def test_as_it_was_written(converted: Callable[[str], Path]) -> None:
    """Every byte of every file but the manifest itself is looked at."""
    dst = converted("fused")
    found = streamconv.verify(dst)
    assert found.differences == ()
    assert found.unchecked == ()
    files = [p for p in dst.rglob("*") if p.is_file() and p.name != "streamconv.json"]
    assert found.checked_bytes == sum(path.stat().st_size for path in files)


def test_without_a_manifest_the_structure_is_looked_at(source: Path, tmp_path: Path) -> None:
    found = streamconv.verify(source)
    assert found.ok
    assert "no streamconv.json" in found.unchecked[0]
    src = Path(shutil.copytree(source, tmp_path / "src"))
    indexed(lambda index: index.update(metadata={"total_size": 5}))(src)
    assert differing(streamconv.verify(src), src) == {INDEX}
    drop(src, f"{LAYER}.3.up_proj.weight")
    (difference,) = streamconv.verify(src).differences
    assert f"{LAYER}.3.up_proj.weight is missing" in difference.detail.replace("tensor ", "")


def test_sha256_is_that_of_the_files(converted: Callable[[str], Path], source: Path) -> None:
    """As coreutils say it; alone, beside a source, and where there is no manifest."""
    for words in ((converted("fused"),), (source, converted("fused")), (source,)):
        found = streamconv.verify(*words, sha256=True)
        names = sorted(str(p.relative_to(words[-1])) for p in words[-1].rglob("*") if p.is_file())
        shown = subprocess.run(
            ["sha256sum", *names], cwd=words[-1], check=True, capture_output=True, text=True
        ).stdout
        said = dict(reversed(line.split("  ", 1)) for line in shown.splitlines())
        assert found.ok
        assert found.sha256 == said


@pytest.mark.parametrize("options", [{}, {"preset": "mindspeed"}], ids=str)
def test_sha256_is_noted_and_checked(source: Path, options: dict[str, Any], tmp_path: Path) -> None:
    """Of every file, by a run that was asked to; what is noted wrongly is found."""
    dst = tmp_path / "dst"
    streamconv.convert(
        source, dst, to="fused", max_shard_size="3KB", sha256=True, verify=True, **options
    )
    hashed = streamconv.verify(dst).sha256
    assert hashed
    for name, digest in hashed.items():
        (path,) = (p for p in dst.rglob("*") if str(p.relative_to(dst)).endswith(name))
        assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    if not options:
        files = {str(p.relative_to(dst)) for p in dst.rglob("*") if p.is_file()}
        assert hashed.keys() == files - {"streamconv.json"}
        manifest = dst / "streamconv.json"
        manifest.write_text(manifest.read_text().replace(hashed[INDEX], "0" * 64))
        (difference,) = streamconv.verify(dst).differences
        assert difference.subject == INDEX
        assert hashed[INDEX] in difference.detail


# --- what cannot be verified -------------------------------------------------------------------


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


# --- a path of its own -------------------------------------------------------------------------


def test_verification_knows_nothing_that_converts() -> None:
    """Not the planner, the executor, or the arithmetic that moves bytes; not by way of others."""
    reached = {name for name in graph() if name.startswith("streamconv.verification")}
    assert len(reached) > 4
    edge = set(reached)
    while edge:
        edge = {name for module in edge for name in graph()[module]} - reached - {"streamconv"}
        reached |= edge
    converting = {"planning", "execution", "sinks"}
    assert {name for name in reached if name.split(".")[1] in converting} == set()
    for path in (Path(streamconv.__file__).parent / "verification").glob("*.py"):
        names = {
            alias.name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and node.module == "streamconv.catalog.templates"
            for alias in node.names
        }
        assert names <= {"EXPERT", "Template"}


# --- the command line --------------------------------------------------------------------------


def attempt(*words: object) -> Any:
    return CliRunner().invoke(cli, ["verify", *map(str, words)], standalone_mode=False)


SCHEMA = json.loads((Path(streamconv.__file__).parent / "report" / "schema.json").read_text())


def test_what_is_printed(converted: Callable[[str], Path], source: Path, tmp_path: Path) -> None:
    dst = Path(shutil.copytree(converted("fused"), tmp_path / "dst"))
    result = attempt(source, dst)
    assert result.exception is None
    assert f"{dst}: the conversion of {source}" in result.stdout
    result = attempt(source, dst, "--sample", "5%", "--json")
    fields = json.loads(result.stdout)
    jsonschema.validate(fields, SCHEMA)
    assert fields["ok"]
    bit_flipped(f"{LAYER}.gate_up_proj")(dst)
    tensors_swapped(f"{LAYER}.down_proj", "model.layers.0.mlp.experts.down_proj")(dst)
    result = attempt(source, dst)
    assert isinstance(result.exception, VerifyFailed)
    assert f"{LAYER}.down_proj, expert 3 differs from" in result.stdout
    assert "... 5 more" in result.stdout
    assert len(result.stdout.splitlines()) == 21
    assert "25 differences" in result.exception.message
    result = attempt(source, dst, "--json")
    assert isinstance(result.exception, VerifyFailed)
    fields = json.loads(result.stdout)
    jsonschema.validate(fields, SCHEMA)
    assert fields["difference_count"] == 25
    assert attempt(source, dst, "--quiet").stdout == ""
    assert isinstance(attempt(source, dst, "--sample", "x").exception, Exception)


def test_names_of_a_checkpoint_are_printed_escaped(tmp_path: Path) -> None:
    src, dst = tmp_path / "src", tmp_path / "dst"
    evil = "a\nb\x1b[31m"
    tensors = {**qwen_tensors(), evil: tensor(evil, "BF16", 3)}
    write_checkpoint(src, {"model.safetensors": tensors}, {"model_type": "qwen3_moe"}, index=False)
    streamconv.merge(src, dst)
    bit_flipped(evil)(dst)
    (dst / "x\x1b[31m\n").write_text("1")
    for words in ((src, dst), (dst,)):
        result = attempt(*words, "--no-progress")
        assert isinstance(result.exception, VerifyFailed)
        assert "a\\nb\\x1b[31m" in result.stdout
        assert "x\\x1b[31m\\n" in result.stdout
        assert all(line.isprintable() for line in result.stdout.splitlines())
        assert result.exception.message.isprintable()


def test_a_process_ends_with_5(
    converted: Callable[[str], Path], source: Path, tmp_path: Path
) -> None:
    dst = Path(shutil.copytree(converted("fused"), tmp_path / "dst"))
    bit_flipped(NORM)(dst)
    done = subprocess.run(
        [sys.executable, "-m", "streamconv", "verify", str(source), str(dst)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 5
    assert NORM in done.stdout
    assert done.stderr.startswith(f"streamconv: {dst} is not the conversion of")
    assert "Traceback" not in done.stderr


# --- in one go ---------------------------------------------------------------------------------


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
    assert done.stdout.endswith(", verified bit for bit\n")


@pytest.mark.parametrize("form", ["safetensors", "dcp"])
def test_a_conversion_that_goes_wrong_is_found_out(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """The writer's own mistakes do not pass: what verifies shares nothing with it. What the result
    was to replace stays, and the result lies beside it until it is made anew."""
    from streamconv.execution.transpose import Panel

    write = Panel.write_into

    def wrong(self: Panel, out: memoryview) -> None:
        write(self, out)
        out[0] ^= 1

    dst, partial = tmp_path / "dst", tmp_path / "dst.streamconv-partial"
    dst.mkdir()
    (dst / "precious").write_text("keep this")
    options: Any = {"to": "fused-transposed", "format": form, "verify": True}
    with monkeypatch.context() as broken:
        broken.setattr(Panel, "write_into", wrong)
        with pytest.raises(VerifyFailed, match=r"expert") as caught:
            streamconv.merge(source, dst, overwrite=True, **options)
    assert f"{dst} is as it was" in caught.value.hint
    assert not getattr(caught.value, "__notes__", [])
    assert tree(dst) == {"precious": b"keep this"}
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
