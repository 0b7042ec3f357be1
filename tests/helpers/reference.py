"""What a conversion has to give, from formulas over whole tensors in memory.

Written apart from the package, to be compared with it: nothing here streams, plans or guesses, and
nothing is imported from it. Every function moves bit patterns and never values, so that a NaN keeps
its payload and -0.0 its sign.

E is the number of experts of a stack, H the hidden and I the intermediate size. On the hub, expert
``e`` has gate and up of shape ``[I, H]`` and down of shape ``[H, I]``.
"""

import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from stored import LAYOUTS

Tensors = dict[str, torch.Tensor]

_INDEX = "model.safetensors.index.json"
_EXPERT = re.compile(
    r"(?P<module>(?:.+\.)?experts)\.(?P<number>\d+)"
    r"\.(?P<projection>gate_proj|up_proj|down_proj|w1|w3|w2)\.weight"
)
_NAMINGS = (("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2"))
_SAME_SIZE_INTEGER = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True, slots=True)
class _Stack:
    """The experts of one module: bit patterns, in the order of their numbers."""

    naming: tuple[str, str, str]
    dtype: torch.dtype
    gate: list[torch.Tensor]
    up: list[torch.Tensor]
    down: list[torch.Tensor]


def read(folder: Path) -> Tensors:
    """All tensors of a safetensors checkpoint, read by safetensors itself.

    The files are those that the index names, or without an index every ``*.safetensors`` directly
    in ``folder``. Raises ValueError where a tensor is in two files, or where index and files
    disagree; FileNotFoundError where there is nothing to read.
    """
    index = folder / _INDEX
    weight_map: dict[str, str] | None = None
    if index.exists():
        weight_map = json.loads(index.read_text())["weight_map"]
        files = sorted(set(weight_map.values()))
    else:
        files = sorted(path.name for path in folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder}: no safetensors file")

    tensors: Tensors = {}
    found: dict[str, str] = {}
    for file in files:
        with safe_open(folder / file, framework="pt") as shard:
            names = shard.keys()
            for name in names:
                if name in found:
                    raise ValueError(f"{folder}: {name} is in {found[name]} and in {file}")
                found[name] = file
                tensors[name] = shard.get_tensor(name)
    if weight_map is not None and weight_map != found:
        odd = sorted(dict(weight_map.items() ^ found.items()))
        raise ValueError(f"{folder}: index and files disagree on {odd}")
    return tensors


def merge_mindspeed(tensors: Tensors, model_type: str) -> Tensors:
    """The form that MindSpeed-MM trains, from the names of the hub.

    With ``gate_up[e] = cat(gate_e, up_e).T`` of shape ``[H, 2I]`` and ``down[e] = down_e.T`` of
    shape ``[I, H]``, numerically ordered, ``{module}.gate_up_proj`` and ``{module}.down_proj`` are

    - ``internvl_chat`` and ``glm4v_moe``: flat, ``[E*H, 2I]`` and ``[E*I, H]``;
    - ``qwen3_omni_moe``: ``[E, H, 2I]`` and ``[E, I, H]``, for the thinker alone. Its tensors lose
      the leading ``thinker.``; talker and code2wav stay as they are.

    Every other tensor stays as it is. Raises ValueError for another model type, or experts that are
    incomplete.
    """
    if model_type == "internvl_chat":
        where, flat = r"language_model\.model\.layers\.\d+\.mlp\.experts", True
    elif model_type == "glm4v_moe":
        where, flat = r"model\.language_model\.layers\.\d+\.mlp\.experts", True
    elif model_type == "qwen3_omni_moe":
        where, flat = r"thinker\.model\.layers\.\d+\.mlp\.experts", False
    else:
        raise ValueError(f"MindSpeed-MM has no form for model_type {model_type!r}")

    merged, stacks = _take_experts(tensors, lambda module: bool(re.fullmatch(where, module)))
    for module, stack in stacks.items():
        gate_up = torch.stack(
            [torch.cat((gate, up)).T for gate, up in zip(stack.gate, stack.up, strict=True)]
        )
        down = torch.stack([matrix.T for matrix in stack.down])
        if flat:
            gate_up, down = gate_up.flatten(0, 1), down.flatten(0, 1)
        merged[f"{module}.gate_up_proj"] = _typed(gate_up, stack.dtype)
        merged[f"{module}.down_proj"] = _typed(down, stack.dtype)
    if model_type == "qwen3_omni_moe":
        merged = _renamed(merged, lambda name: name.removeprefix("thinker."))
    return merged


def to_layout(tensors: Tensors, layout: str) -> Tensors:
    """Every expert stack in another layout, from the names of the hub; no name but theirs changes.

    A stack is any module whose last part is ``experts``; ``shared_experts`` is none. In the axes
    ``e`` expert, ``p`` gate or up, ``i`` intermediate, ``h`` hidden:

    - ``per-expert``: as it is;
    - ``fused``: ``gate_up_proj : e (p i) h``, ``down_proj : e h i``;
    - ``fused-transposed``: ``gate_up_proj : e h (p i)``, ``down_proj : e i h``;
    - ``fused-flat``: ``gate_up_proj : (e h) (p i)``, ``down_proj : (e i) h``;
    - ``stacked``: the three projections under their own names, ``e i h``, ``e i h``, ``e h i``;
    - ``fused-interleaved``: ``gate_up_proj : e h (i p)``, ``down_proj : e i h``.

    Raises ValueError for another layout, or experts that are incomplete.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout {layout!r} is none of {', '.join(LAYOUTS)}")
    if layout == "per-expert":
        return dict(tensors)
    converted, stacks = _take_experts(tensors, lambda _module: True)
    for module, stack in stacks.items():
        for name, bits in _rearranged(stack, layout).items():
            converted[f"{module}.{name}"] = _typed(bits, stack.dtype)
    return converted


def by_layer(tensors: Tensors, numbers: random.Random) -> list[tuple[str, torch.Tensor]]:
    """All tensors layer by layer, in random order within a layer; those in none come anywhere."""
    layers: defaultdict[str, list[str]] = defaultdict(list)
    for name in sorted(tensors):
        layer = re.match(r"(?:[^.\d]+\.)*\d+(?=\.)", name)
        layers[layer[0] if layer else name].append(name)
    order = list(layers.values())
    numbers.shuffle(order)
    for names in order:
        numbers.shuffle(names)
    return [(name, tensors[name]) for names in order for name in names]


def same_bytes(a: Tensors, b: Tensors) -> list[str]:
    """Differences in names, dtypes, shapes and bytes, one line for each; empty when equal."""
    differences = [f"{name}: only in the first" for name in sorted(a.keys() - b.keys())]
    differences += [f"{name}: only in the second" for name in sorted(b.keys() - a.keys())]
    for name in sorted(a.keys() & b.keys()):
        one, two = a[name], b[name]
        if one.dtype != two.dtype:
            differences.append(f"{name}: dtype {one.dtype} and {two.dtype}")
        elif one.shape != two.shape:
            differences.append(f"{name}: shape {list(one.shape)} and {list(two.shape)}")
        else:
            differing = (_bytes(one) != _bytes(two)).nonzero()
            if len(differing):
                differences.append(
                    f"{name}: {len(differing)} of {one.nbytes} bytes differ, "
                    f"the first at {int(differing[0])}"
                )
    return differences


def _rearranged(stack: _Stack, layout: str) -> Tensors:
    pairs = list(zip(stack.gate, stack.up, strict=True))
    if layout == "stacked":
        gate_name, up_name, down_name = stack.naming
        return {
            gate_name: torch.stack(stack.gate),
            up_name: torch.stack(stack.up),
            down_name: torch.stack(stack.down),
        }
    if layout == "fused":
        return {
            "gate_up_proj": torch.stack([torch.cat(pair, dim=0) for pair in pairs]),
            "down_proj": torch.stack(stack.down),
        }
    if layout == "fused-interleaved":
        intermediate, hidden = stack.gate[0].shape
        gate_up = stack.gate[0].new_empty(len(pairs), hidden, 2 * intermediate)
        for expert, (gate, up) in enumerate(pairs):
            gate_up[expert, :, 0::2] = gate.T
            gate_up[expert, :, 1::2] = up.T
        return {"gate_up_proj": gate_up, "down_proj": torch.stack([m.T for m in stack.down])}
    halves = [torch.cat((gate.T, up.T), dim=1) for gate, up in pairs]
    transposed = [matrix.T for matrix in stack.down]
    join = torch.cat if layout == "fused-flat" else torch.stack
    return {"gate_up_proj": join(halves), "down_proj": join(transposed)}


def _take_experts(
    tensors: Tensors, wanted: Callable[[str], bool]
) -> tuple[Tensors, dict[str, _Stack]]:
    """Split off the experts of the modules that are wanted: all other tensors, and stacks."""
    rest: Tensors = {}
    found: defaultdict[str, dict[tuple[str, int], torch.Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        match = _EXPERT.fullmatch(name)
        if match and wanted(match["module"]):
            found[match["module"]][match["projection"], int(match["number"])] = tensor
        else:
            rest[name] = tensor
    return rest, {module: _stack(module, experts) for module, experts in found.items()}


def _stack(module: str, experts: dict[tuple[str, int], torch.Tensor]) -> _Stack:
    count = 1 + max(number for _, number in experts)
    namings = [
        naming
        for naming in _NAMINGS
        if experts.keys() == {(part, number) for part in naming for number in range(count)}
    ]
    dtypes = {tensor.dtype for tensor in experts.values()}
    if not namings or len(dtypes) > 1:
        parts = dict(Counter(part for part, _ in experts))
        raise ValueError(f"{module}: {count} experts need three of each, found {parts} in {dtypes}")
    gate, up, down = namings[0]

    def bits(part: str) -> list[torch.Tensor]:
        return [_bits(experts[part, number]) for number in range(count)]

    return _Stack(namings[0], dtypes.pop(), bits(gate), bits(up), bits(down))


def _renamed(tensors: Tensors, rename: Callable[[str], str]) -> Tensors:
    renamed = {rename(name): tensor for name, tensor in tensors.items()}
    if len(renamed) < len(tensors):
        shared = [name for name, count in Counter(map(rename, tensors)).items() if count > 1]
        raise ValueError(f"several tensors would be named {shared}")
    return renamed


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """The same elements as integers: copying those can change no NaN."""
    return tensor.contiguous().view(_SAME_SIZE_INTEGER[tensor.element_size()])


def _typed(bits: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return bits.contiguous().view(dtype)


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)
