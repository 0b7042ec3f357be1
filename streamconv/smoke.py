"""The quick conversion: a small checkpoint of each family, there and back, compared.

Made for other projects' CI: no network, no model, a second or two. The results are read by
safetensors' own parser and compared with formulas over whole arrays, independent of this package.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import deserialize

from streamconv import convert, merge, plan
from streamconv.catalog.catalog import default_catalog
from streamconv.catalog.families import COUNT_KEYS, HUB_NAMES, Family, Form
from streamconv.catalog.layouts import PER_EXPERT
from streamconv.catalog.weight_kinds import MATRICES
from streamconv.errors import VerifyFailed
from streamconv.formats.safetensors import Entry
from streamconv.formats.safetensors_writer import build_header

LAYERS, EXPERTS, HIDDEN, INTERMEDIATE = 2, 11, 24, 10
SHARD_BYTES = 20_000

Weight = npt.NDArray[np.uint16]
Tensors = Mapping[str, Weight]


def _transposed(weight: Weight) -> Weight:
    return weight.transpose(0, 2, 1)


FUSED: Mapping[str, Callable[[list[Weight], Weight], tuple[Weight, Weight]]] = {
    "fused": lambda pair, down: (np.concatenate(pair, 1), down),
    **dict.fromkeys(
        ("fused-transposed", "nemo"),
        lambda pair, down: (_transposed(np.concatenate(pair, 1)), _transposed(down)),
    ),
    "fused-flat": lambda pair, down: (
        _transposed(np.concatenate(pair, 1)).reshape(EXPERTS * HIDDEN, -1),
        _transposed(down).reshape(EXPERTS * INTERMEDIATE, -1),
    ),
    "fused-interleaved": lambda pair, down: (
        _transposed(np.stack(pair, 2).reshape(EXPERTS, -1, HIDDEN)),
        _transposed(down),
    ),
    "interleaved": lambda pair, down: (np.stack(pair, 2).reshape(EXPERTS, -1, HIDDEN), down),
}
"""gate_up and down of a layer in a layout, from gate, up `[E, I, H]` and down `[E, H, I]`."""

STACKED: Mapping[str, Callable[[list[Weight], Weight], list[Weight]]] = {
    "stacked": lambda pair, down: [*pair, down],
    "stacked-flat": lambda pair, down: [
        weight.reshape(-1, HIDDEN) for weight in (*pair, _transposed(down))
    ],
}
"""The same for layouts that keep the projections apart."""
PAIRED = "per-expert-fused"
"""The layout with one tensor for gate and up of each expert."""


@dataclass(frozen=True, slots=True)
class FamilyPassed:
    """A family whose conversions were correct."""

    family: str
    form: str
    tensors: int
    merged_tensors: int


def run_smoke(folder: Path) -> Iterator[FamilyPassed]:
    """Convert a small checkpoint of every family there and back; yield each that is correct.

    `folder` receives the checkpoints. Raises VerifyFailed if a result is wrong.
    """
    for number, family in enumerate(_families()):
        source, again = folder / family.name, folder / f"{family.name}-again"
        merged = folder / f"{family.name}-merged"
        experts = _tensors(family, np.random.default_rng(number))
        original = _in_form(family, family.forms[HUB_NAMES.name], experts)
        _write(source, family, original)
        planned = plan(source, max_shard_size=SHARD_BYTES, copy=True)
        merge(source, merged, max_shard_size=SHARD_BYTES, copy=True)
        wanted = _in_form(family, _merged(family), experts)
        _compare(f"{family.name}, merged", wanted, _read(merged))
        if {step.name for shard in planned.shards for step in shard.steps} != set(wanted):
            raise VerifyFailed(f"{family.name}: the plan names other tensors than the run wrote")
        convert(merged, again, to=HUB_NAMES.name, copy=True)
        _compare(f"{family.name}, as on the hub again", original, _read(again))
        yield FamilyPassed(family.name, family.merge, len(original), len(wanted))


def count_families() -> int:
    """Return how many families `run_smoke` converts."""
    return len(_families())


def _families() -> list[Family]:
    return [family for family in default_catalog().families.values() if not family.refused]


def _modules(family: Family) -> Iterator[tuple[str, str]]:
    """Yield pattern and prefix of each of the family's layers."""
    for pattern, layer in itertools.product(family.stacks, range(LAYERS)):
        yield pattern, pattern.replace("*", str(layer))


def _tensors(family: Family, random: np.random.Generator) -> Tensors:
    """Return a family's tensors under plain names, one for each expert, of random bits."""
    (down,) = family.naming.tokens["d"]
    known = family.names_next_to_experts(family.model_types[0])
    other = next(iter(known), "other.weight").replace("*", "weight")
    shapes: dict[str, tuple[int, ...]] = {}
    for _, prefix in _modules(family):
        shapes[f"{prefix}{other}"] = (EXPERTS, HIDDEN)
        for expert in range(EXPERTS):
            for name in family.naming.tokens["p"]:
                shapes[f"{prefix}experts.{expert}.{name}.weight"] = (INTERMEDIATE, HIDDEN)
            shapes[f"{prefix}experts.{expert}.{down}.weight"] = (HIDDEN, INTERMEDIATE)
    top = next(iter(family.stacks)).split(".")[0]
    shapes[f"{top}.norm.weight"] = (HIDDEN,)
    return {
        name: random.integers(0, 2**16, shape, dtype=np.uint16) for name, shape in shapes.items()
    }


def _merged(family: Family) -> Form:
    """Return the form that merging makes; if it is a bare layout, with the names of the hub."""
    if family.merge in family.forms:
        return family.forms[family.merge]
    layouts = (("*", (default_catalog().find_layout(family.merge),)),)
    return Form(family.merge, layouts, family.forms[HUB_NAMES.name].renames)


def _in_form(family: Family, form: Form, tensors: Tensors) -> Tensors:
    """Return the tensors of a form, by the formulas, from those with plain names."""
    names = [*family.naming.tokens["p"], *family.naming.tokens["d"]]
    made = {name: tensor for name, tensor in tensors.items() if ".experts." not in name}
    for pattern, prefix in _modules(family):
        keys = [
            [f"{prefix}experts.{expert}.{name}.weight" for expert in range(EXPERTS)]
            for name in names
        ]
        layout = form.layout_of(pattern)
        if layout is None or layout.name == PER_EXPERT:
            made.update((key, tensors[key]) for key in itertools.chain(*keys))
            continue
        *pair, down = (np.stack([tensors[key] for key in row]) for row in keys)
        if layout.name == PAIRED:
            for expert, gate_up in enumerate(np.concatenate(pair, 1)):
                made[f"{prefix}experts.{expert}.gate_up_proj.weight"] = gate_up
            made.update((key, tensors[key]) for key in keys[-1])
            continue
        if layout.name in STACKED:
            stacked = STACKED[layout.name](pair, down)
            made |= {f"{prefix}experts.{n}": w for n, w in zip(names, stacked, strict=True)}
        else:
            called = (layout.templates[weight].name for weight in MATRICES)
            fused = FUSED[layout.name](pair, down)
            made |= {f"{prefix}{n}": w for n, w in zip(called, fused, strict=True)}
    return {form.apply(name): tensor for name, tensor in made.items()}


def _write(folder: Path, family: Family, tensors: Tensors) -> None:
    """Write the checkpoint in two shards, neighboring tensors in different ones."""
    folder.mkdir()
    config: dict[str, Any] = {"model_type": family.model_types[0]}
    for section in family.stacks.values():
        fields = config
        for key in filter(None, section.split(".")):
            fields = fields.setdefault(key, {})
        fields[COUNT_KEYS[0]] = EXPERTS
    (folder / "config.json").write_text(json.dumps(config))
    weight_map = {}
    for number in range(2):
        entries, data = [], bytearray()
        for name in list(tensors)[number::2]:
            raw = tensors[name].tobytes()
            begin = len(data)
            data += raw
            entries.append(Entry(name, "BF16", tensors[name].shape, begin, len(data)))
            weight_map[name] = f"part-{number}.safetensors"
        content = build_header(entries, {"format": "pt"}) + data
        (folder / f"part-{number}.safetensors").write_bytes(content)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _read(folder: Path) -> Tensors:
    tensors: dict[str, Weight] = {}
    for path in folder.glob("*.safetensors"):
        for name, fields in deserialize(path.read_bytes()):
            tensors[name] = np.frombuffer(fields["data"], np.uint16).reshape(fields["shape"])
    return tensors


def _compare(label: str, wanted: Tensors, found: Tensors) -> None:
    for name in sorted(wanted.keys() | found.keys()):
        if name not in found or name not in wanted:
            fact = "is missing" if name not in found else "is unexpected"
            raise VerifyFailed(f"{label}: tensor {name} {fact}")
        if wanted[name].shape != found[name].shape:
            raise VerifyFailed(
                f"{label}: tensor {name} has the shape {found[name].shape}, "
                f"expected {wanted[name].shape}"
            )
        if wanted[name].tobytes() != found[name].tobytes():
            raise VerifyFailed(f"{label}: tensor {name} has other bytes")
