"""The bytes of published experts in every layout and format: cut down, with random bits.

What a tensor holds for which expert is read from its name by formulas of numpy, one for each way to
store experts. Split, each expert has to have exactly these; converted, the same formulas have to
find them again.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import BITS, Tensors, read_checkpoint, tensor, write_checkpoint
from published import cases, listed_tensors

import streamconv

Weight = np.ndarray[Any, Any]
Found = Iterator[tuple[str, Weight]]
"""Names below `experts.`, and what each expert has under them."""
CASES = cases()
NUMBER = re.compile(r"(.*experts\.)(\d+)\.(.+)")
SUFFIX = re.compile(r"(.*experts\.)(\w+?_proj)((?:_\w+)?)")
ENDS = {"": "weight", "_weight_scale": "weight_scale", "_weight_scale_2": "weight_scale_2"}
"""Ends of fused names, and what an expert's are instead; other ends follow `weight`."""


def companion(end: str) -> str:
    """What follows the projection of one expert, for what follows that of all."""
    plain = {"_bias": "bias", "_input_scale": "input_scale"}
    known = {**ENDS, **plain, "_activation_scale": "activation_scale"}
    return known.get(end, f"weight{end}")


def halves(rows: Weight, *, interleaved: bool) -> tuple[Weight, Weight]:
    """Gate and up of rows that hold both."""
    if interleaved:
        return rows[0::2], rows[1::2]
    half = len(rows) // 2
    return rows[:half], rows[half:]


def fused(
    name: str, each: Weight, count: int, *, turned: bool = False, interleaved: bool = False
) -> Found:
    """A tensor for all experts, with gate and up in one: gate_up_proj and down_proj."""
    match = SUFFIX.fullmatch(name)
    if match is None:
        yield name, each
        return
    module, word, end = match.groups()
    is_packed = end in ("_blocks", "_scales")
    kind = companion(end)
    for expert in range(count):
        own = each if each.ndim == 0 else each[expert]
        if own.ndim > 1 and turned and not is_packed:
            own = own.T
        is_shared = own.size == 1
        if word == "down_proj":
            yield f"{module}{expert}.down_proj.{kind}", own.reshape(()) if is_shared else own
            continue
        gate, up = (own, own) if is_shared else halves(own, interleaved=interleaved)
        for both, half in (("gate_proj", gate), ("up_proj", up)):
            yield f"{module}{expert}.{both}.{kind}", half.reshape(()) if is_shared else half


def transposed(name: str, each: Weight, count: int) -> Found:
    yield from fused(name, each, count, turned=True)


def interleaved(name: str, each: Weight, count: int) -> Found:
    yield from fused(name, each, count, turned=True, interleaved=True)


def as_modules(name: str, each: Weight, count: int) -> Found:
    yield from fused(name.removesuffix(".weight"), each, count)


def lists(name: str, each: Weight, count: int) -> Found:
    """ModelOpt for Qwen3-VL: `experts.gate_proj.3.weight`."""
    module, word, expert, kind = name.rsplit(".", 3)
    yield f"{module}.{expert}.{word}.{kind}", each


def up_first(name: str, each: Weight, count: int) -> Found:
    """HunyuanImage-3: one tensor an expert, up above gate."""
    if "gate_and_up" not in name:
        yield name, each
        return
    up, gate = halves(each, interleaved=False)
    yield name.replace("gate_and_up", "up"), up
    yield name.replace("gate_and_up", "gate"), gate


def flat(name: str, each: Weight, count: int) -> Found:
    """DBRX: the rows of all experts one after another; down is stored the other way round."""
    module, _, word = name.rpartition("mlp.")
    for expert, own in enumerate(each.reshape(count, -1, each.shape[-1])):
        yield f"{module}{expert}.{word}.weight", own.T if word == "w2" else own


def step(name: str, each: Weight, count: int) -> Found:
    """Step: `moe.gate_proj.weight` for all experts."""
    module, word, _ = name.rsplit(".", 2)
    for expert in range(count):
        yield f"{module}.experts.{expert}.{word}.weight", each[expert]


def apart(name: str, each: Weight, count: int) -> Found:
    """Each expert has its own tensors already."""
    yield name, each


def stacked(name: str, each: Weight, count: int) -> Found:
    """A tensor for each projection of all experts."""
    match = SUFFIX.fullmatch(name)
    assert match is not None
    module, word, end = match.groups()
    for expert in range(count):
        yield f"{module}{expert}.{word}.{companion(end)}", each[expert]


def of_apart(name: str, each: Weight, count: int) -> Found:
    """What `to="fused"` makes of experts apart: numbers for a whole projection stay apart."""
    match = SUFFIX.fullmatch(name)
    assert match is not None
    module, word, end = match.groups()
    is_number = end in ("_shape", "_global_scale", "_input_global_scale", "_scale_2")
    for expert in range(count):
        if word == "down_proj":
            yield f"{module}{expert}.{word}.{companion(end)}", each[expert]
            continue
        own = each[expert]
        is_pair = is_number or own.shape == (2,)
        gate, up = own if is_pair else halves(own, interleaved=False)
        yield f"{module}{expert}.gate_proj.{companion(end)}", np.asarray(gate)
        yield f"{module}{expert}.up_proj.{companion(end)}", np.asarray(up)


Reader = Callable[[str, Weight, int], Found]


@dataclass(frozen=True)
class Kind:
    """How a published checkpoint stores its experts."""

    reader: Reader
    axes: Mapping[int, int]
    """Sizes of its axes, and those of the one that is cut down."""
    others: Mapping[str, Reader] = field(default_factory=dict)
    """Further layouts that it is converted to, with the formula of each."""
    has_hub: bool = True
    """True if the form of the hub is the source again, to the last byte of each scale."""


GPT_OSS = {32: 3, 2880: 64, 5760: 128, 90: 2, 16: 16}
NVFP4 = {128: 3, 768: 32, 2048: 48, 1024: 24, 384: 16, 48: 2}
QWEN_FP8 = {128: 3, 768: 256, 6: 2, 16: 2, 2048: 256}
KINDS: dict[str, Kind] = {
    "gpt-oss-20b": Kind(interleaved, GPT_OSS),
    "gpt-oss-20b-bf16": Kind(interleaved, GPT_OSS, {"fused": fused}),
    "internvl3.5-gpt-oss-20b": Kind(interleaved, GPT_OSS, {"fused": fused}),
    "internvl3.5-gpt-oss-20b-hf": Kind(interleaved, GPT_OSS, {"fused": fused}),
    "llama4-scout-bf16": Kind(transposed, {16: 3, 5120: 32, 8192: 48, 16384: 96}),
    "llama4-scout-nvfp4": Kind(
        transposed,
        {16: 3, 2560: 32, 16384: 96, 320: 4, 4096: 24, 512: 3, 5120: 64},
        has_hub=False,
    ),
    "mistral-small-4-fp8-dual": Kind(fused, {128: 3, 4096: 32, 2048: 16}, has_hub=False),
    "motif-3-bf16": Kind(fused, {384: 3, 2560: 40, 1280: 20, 4096: 64}, has_hub=False),
    "qwen3-vl-30b": Kind(transposed, {128: 3, 2048: 32, 1536: 24, 768: 12}, {"fused": fused}),
    "qwen3-vl-nvfp4-swapped": Kind(lists, NVFP4, has_hub=False),
    "qwen3.6-35b-a3b": Kind(fused, {256: 3, 2048: 32, 1024: 16, 512: 8}),
    "step-3.5-flash": Kind(step, {288: 3, 1280: 20, 4096: 64}),
    "step-3.7-flash": Kind(step, {288: 3, 1280: 20, 4096: 64}),
    "hunyuan-image-3": Kind(up_first, {64: 3, 6144: 96, 4096: 64, 3072: 48}),
    "dbrx": Kind(flat, {16: 3, 172032: 60, 6144: 96}),
    "fused-with-dot-weight": Kind(as_modules, {8: 3, 1536: 24, 2048: 32, 768: 12}, has_hub=False),
    "nemotron-3-nano-30b": Kind(apart, {128: 3}, {"stacked": stacked}),
    "nemotron-3-nano-omni": Kind(apart, {128: 3}, {"stacked": stacked}),
    "expert-biases": Kind(apart, {}, {"fused": of_apart}, has_hub=False),
    "kimi-k2-thinking": Kind(apart, {384: 3}, {"fused": of_apart}),
    "qwen3-30b-fp8": Kind(apart, QWEN_FP8, {"fused": of_apart}),
    "qwen3-30b-fp8-per-tensor": Kind(apart, {128: 3}, {"fused": of_apart}),
    "qwen3-30b-ct-w4a16": Kind(apart, {128: 3}, {"fused": of_apart}),
    "glm-4.5-fp8": Kind(apart, {160: 3}, {"fused": of_apart}),
}


PASSED = Kind(apart, {128: 3, 32: 3, 256: 3})


def cut_down(name: str) -> tuple[Tensors, dict[str, Any], int]:
    """Return a case with random bits and small axes, its config.json and its number of experts."""
    case, axes = CASES[name], KINDS.get(name, PASSED).axes
    text = json.dumps(case["config"] or {})
    whole = listed_tensors(case)
    numbered = [int(m[2]) for m in map(NUMBER.fullmatch, whole) if m]
    counts = [int(n) for n in re.findall(r'experts": (\d+)', text) if int(n) in axes]
    experts = counts[0] if counts else max(numbered) + 1
    small = axes.get(experts, experts)

    def size(axis: int) -> int:
        return axes.get(axis, axis // 64 if axis % 64 == 0 else axis)

    shapes = {
        each: (dtype, tuple(map(size, shape)))
        for each, (dtype, shape) in whole.items()
        if not ((m := NUMBER.fullmatch(each)) and int(m[2]) >= small)
        and not ((n := re.search(r"experts\.\w+\.(\d+)\.", each)) and int(n[1]) >= small)
    }
    tensors: Tensors = {n: tensor(n, dtype, *shape) for n, (dtype, shape) in shapes.items()}
    config = json.loads(re.sub(rf'(experts": ){experts}\b', rf"\g<1>{small}", text))
    return tensors, config, small


def by_expert(tensors: Tensors, reader: Reader, count: int) -> Tensors:
    """Return the tensors with those of experts under a name for each of them."""
    made: Tensors = {}
    for name, (dtype, shape, data) in tensors.items():
        is_expert = ".experts." in name or (reader is step and re.search(r"moe\.\w+_proj", name))
        if not is_expert or not name.split(".experts.")[-1].strip("_"):
            made[name] = (dtype, shape, data)
            continue
        whole = np.frombuffer(data, f"u{BITS[dtype] // 8}").reshape(shape)
        for own, values in reader(name, whole, count):
            made[own] = (dtype, values.shape, values.tobytes())
    return made


@pytest.mark.parametrize("name", KINDS)
def test_every_expert_has_its_own_bytes(name: str, tmp_path: Path) -> None:
    tensors, config, count = cut_down(name)
    kind = KINDS[name]
    source = write_checkpoint(tmp_path / "src", {"model.safetensors": tensors}, config, False)
    wanted = by_expert(tensors, kind.reader, count)
    streamconv.convert(source, tmp_path / "split", to="per-expert", copy=True, verify=True)
    assert read_checkpoint(tmp_path / "split") == wanted
    for layout, reader in kind.others.items():
        streamconv.convert(source, tmp_path / layout, to=layout, verify=True)
        assert by_expert(read_checkpoint(tmp_path / layout), reader, count) == wanted, layout
    if kind.has_hub:
        streamconv.convert(tmp_path / "split", tmp_path / "back", to="hub", copy=True)
        assert read_checkpoint(tmp_path / "back") == tensors


@pytest.mark.parametrize(
    "name",
    [
        "qwen3-30b-gptq",
        "qwen3-30b-awq",
        "qwen3-30b-bnb-4bit",
        "qwen3-30b-mlx-4bit",
        "qwen3-30b-nvfp4",
        "qwen3-30b-quark-mxfp4",
        "qwen3-30b-mixed-in-layer",
        "glm-5.1-w8a8-modelslim",
        "gpt-oss-20b-bnb-4bit",
    ],
)
def test_what_is_passed_through_keeps_its_bytes(name: str, tmp_path: Path) -> None:
    """Codes that no layout holds, with all that belongs to them; or, split already, as they are."""
    tensors, config, _ = cut_down(name)
    source = write_checkpoint(tmp_path / "src", {"model.safetensors": tensors}, config, False)
    streamconv.convert(source, tmp_path / "out", to="per-expert", pass_through=True, copy=True)
    assert read_checkpoint(tmp_path / "out") == tensors
