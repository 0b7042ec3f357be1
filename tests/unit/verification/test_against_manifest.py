"""A checkpoint alone is compared with its manifest: damage is found, and the files are hashed."""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from damage import (
    LAYER,
    NORM,
    Damage,
    bit_flipped,
    differing,
    drop,
    indexed,
    place,
)
from folders import (
    INDEX,
    write_sparse,
)

import streamconv

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
    """As coreutils print it; alone, with a source, and without a manifest."""
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
