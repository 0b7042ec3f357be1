"""Checkpoints with the tensors of real models: every name, dtype and shape, with or without data.

The models are in truesize.toml, each drawn as a tree: a line that ends in a dot opens a module,
any other line is a tensor with its shape (and its dtype if it is not BF16; `+bias` adds a bias
as long as the first dimension, `+scale` an F32 scale for each block of 128 x 128). `{0-127}`
counts, `{gate,up}` lists, and `<0-47>` counts the layers of the main decoder stack, which `layers`
can limit. Lines are in the order of the modules: the order in which the hub's shards were cut.

The tables follow the tensor listings of the published checkpoints and come to their totals:

    model                 tensors         parameters    bytes
    qwen3-30b-a3b          18,867     30,532,122,624    56.87 GiB
    qwen3-omni-30b-a3b     28,010     35,259,818,545    65.68 GiB
    glm-4.5v               18,106    107,710,933,120   200.63 GiB
    kimi-k2                70,036  1,026,408,235,864  1911.83 GiB
    deepseek-v3            91,991    684,531,386,000    641.29 GiB

Kimi-K2 is published in fp8, as 139,644 tensors: the table is that listing less its 69,608 scales,
all in bf16 (there the router's bias is F32). Its `inv_freq` are 56 numbers long, as listed, where
32 would do. Not known from the listings: the order of tensors inside the published files, and the
file of each of GLM-4.5V's vision blocks (its other tensors outside the layers are in the last of
46 files). Shards are cut by size alone here.

Standard library only; stays below 100 MB of memory, whatever the model.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import math
import random
import re
import textwrap
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

Tensor = tuple[str, str, tuple[int, ...]]
"""Name, dtype as safetensors spells it, shape."""

ITEMSIZE = {"F8_E4M3": 1, "BF16": 2, "F32": 4}
BLOCK = 128
"""Rows and columns that share a scale."""
EXPERT_COUNTS = ("num_experts", "n_routed_experts")
EXPERT_WIDTHS = ("hidden_size", "moe_intermediate_size")
"""Keys of config.json."""

MODELS: dict[str, dict[str, Any]] = tomllib.loads(
    Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
)


def tensors(model: str, layers: int | None = None) -> Iterator[Tensor]:
    """Every tensor of a model in hub order; `layers` keeps only the first of the main stack."""
    tree = MODELS[model]["tree"].splitlines()
    return _tensors(tree, "", math.inf if layers is None else layers)


def config(model: str, layers: int | None = None) -> dict[str, Any]:
    """The model's config.json, as far as it tells counts and sizes."""
    whole: dict[str, Any] = copy.deepcopy(MODELS[model]["config"])
    section = whole
    for key in filter(None, MODELS[model]["stack"].split(".")):
        section = section[key]
    if layers is not None:
        section["num_hidden_layers"] = min(layers, section["num_hidden_layers"])
    return whole


def write(
    model: str,
    folder: str | Path,
    *,
    layers: int | None = None,
    fill: Literal["sparse", "random"] = "sparse",
    shard_bytes: int = 4_000_000_000,
    only: Literal["all", "experts"] = "all",
    experts: int | None = None,
    narrow: int = 1,
) -> None:
    """Write config.json, the shards and their index into a folder that has no shards yet.

    "sparse" files have their full length but no data: they read as zeros and take no room.
    "random" data is the same in every run and differs from tensor to tensor. `only="experts"`
    leaves out everything but the routed experts; `experts` keeps the first of each layer, and
    `narrow` divides both widths of a routed expert. Raises FileExistsError.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    reduced = (_reduced(tensor, experts, narrow) for tensor in tensors(model, layers))
    wanted = (t for t in reduced if t and (only == "all" or ".mlp.experts." in t[0]))
    shards = _shards(wanted, shard_bytes)
    block = _random_block() if fill == "random" else None
    serial = itertools.count(1)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        # save_file's order, whatever the order the shards were cut in
        shard.sort(key=lambda tensor: (-ITEMSIZE[tensor[1]], tensor[0]))
        with (folder / name).open("xb") as file:
            end = _write_header(file, shard)
            if block is None:
                file.truncate(end)
            else:
                for tensor in shard:
                    _write_random(file, _nbytes(tensor), block, next(serial))
        weight_map |= {tensor[0]: name for tensor in shard}
    total = sum(_nbytes(tensor) for shard in shards for tensor in shard)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    _write_json(folder / "model.safetensors.index.json", index)
    sizes = config(model, layers)
    if experts is not None:
        sizes |= {key: experts for key in EXPERT_COUNTS if key in sizes}
    if narrow > 1:
        sizes |= {key: sizes[key] // narrow for key in EXPERT_WIDTHS}
    _write_json(folder / "config.json", sizes)


def _reduced(tensor: Tensor, experts: int | None, narrow: int) -> Tensor | None:
    """Return the tensor with fewer or narrower experts, or None if its expert is left out."""
    name, dtype, shape = tensor
    if expert := re.search(r"\.mlp\.experts\.(\d+)\.", name):
        if experts is not None and int(expert[1]) >= experts:
            return None
        return name, dtype, tuple(size // narrow for size in shape)
    if experts is not None and ".mlp.gate." in name:
        return name, dtype, (experts, *shape[1:])
    return tensor


def _tensors(lines: Sequence[str], prefix: str, layers: float) -> Iterator[Tensor]:
    """The tensors of dedented lines of a tree, below a module's prefix."""
    starts = [n for n, line in enumerate(lines) if not line.startswith(" ")]
    for start, end in itertools.pairwise([*starts, len(lines)]):
        pattern, *shape = lines[start].split()
        body = textwrap.dedent("\n".join(lines[start + 1 : end])).splitlines()
        dtype = next((word for word in shape if word in ITEMSIZE), "BF16")
        sizes = tuple(int(size) for size in shape if size.isdigit())
        for name in _names(pattern, layers):
            if body:
                yield from _tensors(body, prefix + name, layers)
                continue
            yield prefix + name, dtype, sizes
            if "+bias" in shape:
                yield prefix + name.removesuffix("weight") + "bias", dtype, sizes[:1]
            if "+scale" in shape:
                yield f"{prefix}{name}_scale_inv", "F32", tuple(-(-n // BLOCK) for n in sizes)


def _names(pattern: str, layers: float) -> Iterator[str]:
    """Return the names of a pattern; its leftmost choice varies slowest."""
    choice = re.search(r"[{<](?:(\d+)-(\d+)|(.+?))[}>]", pattern)
    if not choice:
        yield pattern
        return
    first, last, listed = choice.groups()
    values: Sequence[object] = listed.split(",") if listed else range(int(first), int(last) + 1)
    for value in values:
        if choice[0][0] == "<" and int(str(value)) >= layers:
            return
        for rest in _names(pattern[choice.end() :], layers):
            yield f"{pattern[: choice.start()]}{value}{rest}"


def _nbytes(tensor: Tensor) -> int:
    return math.prod(tensor[2]) * ITEMSIZE[tensor[1]]


def _shards(wanted: Iterator[Tensor], shard_bytes: int) -> list[list[Tensor]]:
    """Runs of tensors that fit `shard_bytes`; a larger tensor has a shard to itself."""
    shards: list[list[Tensor]] = []
    room = 0
    for tensor in wanted:
        if not shards or _nbytes(tensor) > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(tensor)
        room -= _nbytes(tensor)
    return shards


def _write_header(file: BinaryIO, shard: list[Tensor]) -> int:
    """Write length and header of a shard; return where its data has to end."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name, dtype, shape in shard:
        end = begin + _nbytes((name, dtype, shape))
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    return 8 + len(text) + begin


def _random_block(size: int = 1 << 25, step: int = 1 << 20) -> memoryview:
    numbers = random.Random(0)
    block = bytearray(size)
    # in steps, as randbytes makes an integer of the whole first
    for start in range(0, size, step):
        block[start : start + step] = numbers.randbytes(step)
    return memoryview(block)


def _write_random(file: BinaryIO, left: int, block: memoryview, serial: int) -> None:
    """Write `left` bytes of the block over and over, from a place that belongs to the serial."""
    # an odd factor and a power of two: no two serials begin at the same place
    place = serial * 0x9E3779B1 % len(block)
    while left:
        part = block[place : place + left]
        file.write(part)
        left -= len(part)
        place = 0


def _write_json(path: Path, value: object) -> None:
    with path.open("x", encoding="utf-8") as file:
        json.dump(value, file, indent=2, sort_keys=True)
        file.write("\n")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write a checkpoint with a real model's tensors.")
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, help="keep only so many layers of the main stack")
    parser.add_argument("--random", action="store_true", help="with data, not as sparse files")
    parser.add_argument("--experts-only", action="store_true", help="routed experts only")
    parser.add_argument("--experts", type=int, help="keep only so many experts of each layer")
    parser.add_argument("--narrow", type=int, default=1, help="divide the experts' widths")
    args = parser.parse_args()
    write(
        args.model,
        args.folder,
        layers=args.layers,
        fill="random" if args.random else "sparse",
        only="experts" if args.experts_only else "all",
        experts=args.experts,
        narrow=args.narrow,
    )


if __name__ == "__main__":
    main()
