"""Checkpoints as they are published or as people reported them: names, dtypes and shapes alone.

`published_checkpoints.json` has of each its config.json, and for each file the patterns of its
tensors by dtype and shape: `"BF16 128 2048": ["model.layers.{0-1}.mlp.gate.weight"]`. Of the layers
only a few are there; everything else has its true size. In a pattern, `{a,b,0-3}` stands for each
of these in turn. `merge` and `split` say what has to become of it: the layout or form that it is
converted to, or `refused: ` and words of the reason.
"""

import json
import math
import re
import struct
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from folders import BITS, INDEX

Shapes = dict[str, tuple[str, tuple[int, ...]]]
"""Dtype and shape of each tensor."""
Case = Mapping[str, Any]

_SPAN = re.compile(r"(\d+)-(\d+)")


@cache
def cases() -> dict[str, Case]:
    path = Path(__file__).with_name("published_checkpoints.json")
    loaded: dict[str, Case] = json.loads(path.read_text())
    return loaded


def names_of(pattern: str) -> Iterator[str]:
    """Every name that a pattern stands for."""
    before, brace, after = pattern.partition("{")
    if not brace:
        yield pattern
        return
    choices, _, rest = after.partition("}")
    for choice in choices.split(","):
        span = _SPAN.fullmatch(choice)
        values = range(int(span[1]), int(span[2]) + 1) if span else [choice]
        for value in values:
            yield from (f"{before}{value}{end}" for end in names_of(rest))


def tensors_of(case: Case, file: str) -> Shapes:
    """The tensors of a file."""
    found = {}
    for kind, patterns in case["files"][file].items():
        dtype, *shape = kind.split()
        for pattern in patterns:
            found |= dict.fromkeys(names_of(pattern), (dtype, tuple(map(int, shape))))
    return found


def listed_tensors(case: Case) -> Shapes:
    """The tensors of all files that the index does not leave out."""
    files = [file for file in case["files"] if file not in case.get("unlisted", ())]
    return {name: tensor for file in files for name, tensor in tensors_of(case, file).items()}


def possible_names(case: Case) -> set[str]:
    """What a message may name: tensors, by their patterns, and paths of keys in config.json."""
    patterns = (p for file in case["files"].values() for kinds in file.values() for p in kinds)
    numbered = (re.sub(r"\{\d+-\d+\}", "0", text) for text in patterns)
    names = {name for text in numbered for name in names_of(text)}
    return {*names, *case.get("extra_index", ()), *_paths(case["config"] or {}, "config")}


def _paths(config: object, path: str) -> Iterator[str]:
    for key, value in config.items() if isinstance(config, dict) else ():
        yield f"{path}.{key}"
        yield from _paths(value, f"{path}.{key}")


def write_published(case: Case, folder: Path) -> Path:
    """A folder of true size whose data are holes."""
    folder.mkdir(parents=True)
    weight_map: dict[str, str] = {}
    for file in case["files"]:
        tensors = tensors_of(case, file)
        write_holes(folder / file, tensors)
        if file not in case.get("unlisted", ()):
            weight_map |= dict.fromkeys(tensors, file)
    for name in case.get("drop_from_index", ()):
        del weight_map[name]
    weight_map |= case.get("extra_index", {})
    index = case.get("index", INDEX)
    if index:
        (folder / index).write_text(json.dumps({"weight_map": weight_map}))
    if case["config"] is not None:
        (folder / "config.json").write_text(json.dumps(case["config"]))
    for other in case.get("others", ()):
        (folder / other).write_text("{}")
    return folder


def write_holes(path: Path, tensors: Shapes) -> None:
    """A safetensors file whose data is a hole."""
    header: dict[str, Any] = {}
    offset = 0
    for name, (dtype, shape) in tensors.items():
        end = offset + math.prod(shape) * BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    raw = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        file.truncate(8 + len(raw) + offset)


def shrunk(case: Case) -> tuple[Shapes, dict[str, Any]]:
    """Return a case with four experts and small axes, and its config.json."""
    unlisted = case.get("unlisted", ())
    text = json.dumps({f: kinds for f, kinds in case["files"].items() if f not in unlisted})
    spans = [int(end) + 1 for end in re.findall(r"experts\.\{0-(\d+)\}", text)]
    experts = max(spans)
    small = json.loads(re.sub(r"(experts\.\{0-)\d+\}", r"\g<1>3}", text))

    def size(axis: int) -> int:
        return 4 if axis == experts else axis // 64 if axis % 64 == 0 else axis

    tensors = {
        name: (dtype, tuple(map(size, shape)))
        for name, (dtype, shape) in listed_tensors({"files": small}).items()
    }
    config = json.loads(
        re.sub(rf'(experts": ){experts}\b', r"\g<1>4", json.dumps(case["config"] or {}))
    )
    return tensors, config
