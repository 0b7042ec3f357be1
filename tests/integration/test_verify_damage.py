"""Verification finds each kind of damage and names it.

What is damaged is damaged by editing bytes of files; nothing that converts is used to verify.
"""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import reference
from damage import (
    CONFIG,
    LAYER,
    NORM,
    Damage,
    bit_flipped,
    differing,
    experts_swapped,
    halves_swapped,
    indexed,
    lost_expert,
    place,
    relabelled,
    rewritten,
    tensors_swapped,
    transposed,
)
from folders import (
    INDEX,
    read_shard,
    tensor,
)

import streamconv
from streamconv.verification import compare as equal

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
    "an expert lost": (("per-expert",), lost_expert, ("DST", INDEX)),
    "a wrong total": (("fused",), indexed(lambda i: i["metadata"].update(total_size=1)), (INDEX,)),
    "a total in quotes": (
        ("fused",),
        indexed(lambda i: i["metadata"].update(total_size="1")),
        (INDEX,),
    ),
    "a stale index": (("fused",), indexed(lambda i: i["weight_map"].pop(NORM)), (INDEX,)),
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


@pytest.fixture(params=["large blocks", "blocks of 64 bytes"])
def _blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """So small that a matrix takes many of them, and panels of it too."""
    if request.param == "blocks of 64 bytes":
        monkeypatch.setattr(equal, "SOURCE_BLOCK_BYTES", 128)
        monkeypatch.setattr(equal, "OUTPUT_BLOCK_BYTES", 64)
        monkeypatch.setattr(equal, "PANEL_WIDTH", 5)


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
