"""Tiny checkpoints made by hand, byte for byte, and a look at folders before and after.

Nothing of the package and no library frames these files: what is written here is what the format
says, and what is broken in it is broken on purpose. The same arguments give the same bytes.
"""

import json
import math
import os
import random
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Tensor = tuple[str, tuple[int, ...], bytes]
"""Dtype, shape and bytes."""
Tensors = dict[str, Tensor]

INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
"""The files of `two_shards`: the second one has layer 1, the first one everything else."""

BITS = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}


def tensor(name: str, dtype: str, *shape: int, seed: int = 0) -> Tensor:
    """A tensor of random bytes, its own for each name and seed."""
    nbytes = math.prod(shape) * BITS[dtype] // 8
    return dtype, shape, random.Random(f"{seed} {name}").randbytes(nbytes)


def qwen_tensors(
    layers: int = 2,
    experts: int = 3,
    hidden: int = 4,
    intermediate: int = 6,
    dtype: str = "BF16",
    seed: int = 0,
    prefix: str = "model.",
) -> Tensors:
    """Per-expert tensors with the names of Qwen3-MoE below `prefix`, and some that are none."""
    shapes: dict[str, tuple[int, ...]] = {f"{prefix}embed_tokens.weight": (5, hidden)}
    for layer in range(layers):
        mlp = f"{prefix}layers.{layer}.mlp."
        shapes[f"{prefix}layers.{layer}.input_layernorm.weight"] = (hidden,)
        shapes[f"{mlp}gate.weight"] = (experts, hidden)
        for expert in range(experts):
            shapes[f"{mlp}experts.{expert}.gate_proj.weight"] = (intermediate, hidden)
            shapes[f"{mlp}experts.{expert}.up_proj.weight"] = (intermediate, hidden)
            shapes[f"{mlp}experts.{expert}.down_proj.weight"] = (hidden, intermediate)
    shapes[f"{prefix}norm.weight"] = (hidden,)
    return {name: tensor(name, dtype, *shape, seed=seed) for name, shape in shapes.items()}


def fused_tensors(
    gate_up: tuple[int, ...], down: tuple[int, ...], layers: int = 2, dtype: str = "BF16"
) -> Tensors:
    """Tensors that hold all experts of a layer in these shapes, and an embedding."""
    names: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (5, 4)}
    for layer in range(layers):
        names[f"model.layers.{layer}.mlp.experts.gate_up_proj"] = gate_up
        names[f"model.layers.{layer}.mlp.experts.down_proj"] = down
    return {name: tensor(name, dtype, *shape) for name, shape in names.items()}


def two_shards(tensors: Tensors) -> dict[str, Tensors]:
    """Layer 1 in a file of its own."""
    second = {name for name in tensors if ".layers.1." in f".{name}"}
    return {
        SHARDS[0]: {name: t for name, t in tensors.items() if name not in second},
        SHARDS[1]: {name: t for name, t in tensors.items() if name in second},
    }


def framed(header: bytes, data: bytes = b"") -> bytes:
    """A file with this header, whatever it says."""
    return len(header).to_bytes(8, "little") + header + data


def header_of(tensors: Tensors, metadata: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The header of a file that holds `tensors` in this order."""
    fields: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    offset = 0
    for name, (dtype, shape, data) in tensors.items():
        end = offset + len(data)
        fields[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    return fields


def shard_bytes(
    tensors: Tensors, metadata: Mapping[str, str] | None = None, padding: int = 0
) -> bytes:
    """A safetensors file of `tensors` in this order, its header padded with spaces.

    Their data begins wherever the header ends, aligned to nothing.
    """
    text = json.dumps(header_of(tensors, metadata), ensure_ascii=False).encode()
    return framed(text + b" " * padding, b"".join(data for _, _, data in tensors.values()))


def write_shard(
    path: Path, tensors: Tensors, metadata: Mapping[str, str] | None = None, padding: int = 0
) -> None:
    """The file of `shard_bytes`, its folder made where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(shard_bytes(tensors, metadata, padding))


def write_checkpoint(
    folder: Path,
    shards: Mapping[str, Tensors],
    config: object = None,
    index: bool | dict[str, Any] = True,
) -> Path:
    """A folder with these shards; an index that fits them, none, or the one that is given."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, tensors in shards.items():
        write_shard(folder / file, tensors)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    if index is True:
        index = {"weight_map": {name: file for file in shards for name in shards[file]}}
    if index is not False:
        (folder / INDEX).write_text(json.dumps(index))
    return folder


def write_sparse(folder: Path, layers: int, experts: int, hidden: int, intermediate: int) -> Path:
    """A Qwen3-MoE checkpoint of true size that takes no room: its data are holes."""
    folder.mkdir(parents=True)
    mlp = {"gate_proj": (intermediate, hidden), "up_proj": (intermediate, hidden)}
    for layer in range(layers):
        fields: dict[str, Any] = {}
        offset = 0
        for expert in range(experts):
            for projection, shape in {**mlp, "down_proj": (hidden, intermediate)}.items():
                end = offset + 2 * math.prod(shape)
                fields[f"model.layers.{layer}.mlp.experts.{expert}.{projection}.weight"] = {
                    "dtype": "BF16",
                    "shape": shape,
                    "data_offsets": [offset, end],
                }
                offset = end
        start = framed(json.dumps(fields).encode())
        path = folder / f"layer-{layer}.safetensors"
        path.write_bytes(start)
        os.truncate(path, len(start) + offset)
    (folder / "config.json").write_text('{"model_type": "qwen3_moe"}')
    return folder


def read_shard(path: Path) -> tuple[Tensors, dict[str, str]]:
    """The tensors of a file, in the order of its header, and its metadata."""
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    fields = json.loads(raw[8:start])
    metadata = fields.pop("__metadata__", {})
    tensors = {}
    for name, field in fields.items():
        begin, end = (start + offset for offset in field["data_offsets"])
        tensors[name] = field["dtype"], tuple(field["shape"]), raw[begin:end]
    return tensors, metadata


def read_checkpoint(folder: Path) -> Tensors:
    """All tensors of the safetensors files at the top of a folder, no name twice."""
    tensors: Tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        shard, _ = read_shard(path)
        assert not tensors.keys() & shard.keys()
        tensors.update(shard)
    return tensors


def tree(folder: Path) -> dict[str, object]:
    """Everything below a folder: bytes, targets of links, kinds of what is neither."""
    return dict(_entries(folder))


def _entries(folder: Path) -> Iterable[tuple[str, object]]:
    for path, folders, files in os.walk(folder):
        for name in (*folders, *files):
            entry = Path(path, name)
            mode = entry.lstat().st_mode
            relative = str(entry.relative_to(folder))
            if stat.S_ISLNK(mode):
                yield relative, ("link", str(entry.readlink()))
            elif stat.S_ISREG(mode):
                yield relative, entry.read_bytes()
            else:
                yield relative, stat.S_IFMT(mode)


def output(folder: Path) -> dict[str, object]:
    """A converted folder, its manifest without what the source was: that differs rightly."""
    found = tree(folder)
    manifest = json.loads((folder / "streamconv.json").read_text())
    found["streamconv.json"] = {
        key: value for key, value in manifest.items() if key not in ("fingerprint", "revision")
    }
    return found


def forget(folder: Path) -> None:
    """Take away all that the checkpoint says of its layouts: the manifest, the shards' record."""
    (folder / "streamconv.json").unlink()
    for shard in folder.glob("*.safetensors"):
        raw = shard.read_bytes()
        end = 8 + int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8:end])
        del header["__metadata__"]["streamconv"]
        text = json.dumps(header).encode()
        shard.write_bytes(len(text).to_bytes(8, "little") + text + raw[end:])


def old_checkpoint(folder: Path) -> dict[str, Any]:
    """Make a folder that --overwrite may replace; returns its tree."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "README.md").write_text("keep this")
    return tree(folder)
