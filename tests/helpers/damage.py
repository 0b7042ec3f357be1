"""Converted checkpoints, and ways to damage them by editing bytes of files."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from folders import (
    INDEX,
    Tensors,
    qwen_tensors,
    read_shard,
    tensor,
    two_shards,
    write_checkpoint,
    write_shard,
)

import streamconv
from streamconv.verification.result import Verification

LAYER = "model.layers.1.mlp.experts"


CONFIG = {"model_type": "qwen3_moe", "num_experts": 12}


NORM = "model.norm.weight"


Damage = Callable[[Path], object]


def write_source(folder: Path, sizes: str = "H = 2I") -> Path:
    """Write twelve experts a layer in which gate_up as a whole (H = 2I), or down, is square."""
    tensors = qwen_tensors(experts=12, hidden=12, intermediate={"H = 2I": 6, "H = I": 12}[sizes])
    tensors["model.scale"] = tensor("model.scale", "F32", 3)
    src = write_checkpoint(folder, two_shards(tensors), CONFIG)
    (src / "notes").mkdir()
    (src / "notes" / "readme.txt").write_text("travels along")
    return src


def converter(source: Path, folder: Path) -> Callable[[str], Path]:
    """Return a function that converts the source to a layout, once."""

    def convert(layout: str) -> Path:
        dst = folder / layout
        if not dst.exists():
            streamconv.convert(source, dst, to=layout, max_shard_size="3KB")
        return dst

    return convert


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
