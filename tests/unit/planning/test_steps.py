"""Every source byte has its use: each tensor of the output is a step."""

import gc
import itertools
import math
import re
import tracemalloc
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from header_models import (
    BITS,
    MERGED,
    OMNI,
    PLANS,
    check_pieces,
    experts,
    model,
    names_of,
    omni,
    plan_from,
    planned,
    steps_of,
)
from hypothesis import given, settings

from streamconv.catalog.catalog import default_catalog
from streamconv.checkpoint.tensor_names import natural_key
from streamconv.detection.detect import detect
from streamconv.errors import StreamconvError
from streamconv.options import parse_layers
from streamconv.planning.make_plan import make_plan
from streamconv.planning.memory import Limits
from streamconv.planning.steps import Step
from streamconv.planning.target import resolve_target


def used(step: Step, begin_of: Mapping[str, int]) -> Iterable[npt.NDArray[np.int64]]:
    """Addresses of the source bytes that a step's units consist of, read the naive way."""
    (how,) = step.sections
    for unit in range(how.units):
        runs = []
        for which, offset in how.reads(unit):
            info = step.inputs[which]
            assert 0 <= offset <= offset + how.input_bytes <= info.nbytes
            runs.append(np.arange(how.input_bytes, dtype=np.int64) + begin_of[info.name] + offset)
        memory = np.concatenate(runs)
        address = memory.itemsize * how.itemsize
        view: npt.NDArray[np.int64] = np.ndarray(
            (*how.shape, how.itemsize),
            np.int64,
            memory,
            how.start * address,
            (*(stride * address for stride in how.strides), memory.itemsize),
        )
        yield view.reshape(-1)


@settings(deadline=None, max_examples=60)
@given(drawn=PLANS)
def test_every_byte_is_used_exactly_once(drawn: Mapping[str, Any]) -> None:
    """Of all tensors together, and of none but whole bytes in, whole bytes out."""
    plan = plan_from(drawn)
    checkpoint = plan.checkpoint
    sizes = [info.nbytes for info in checkpoint.tensors.values()]
    begins = itertools.accumulate([0, *sizes[:-1]])
    begin_of = dict(zip(checkpoint.tensors, begins, strict=True))
    uses = np.zeros(checkpoint.total_bytes, np.int64)
    for step in steps_of(plan):
        out = 0
        for addresses in used(step, begin_of):
            uses += np.bincount(addresses, minlength=len(uses))
            out += len(addresses)
        assert out == step.nbytes == math.prod(step.shape) * BITS[step.dtype] // 8
    assert (uses == 1).all()
    assert plan.data_bytes == sum(sizes)


@settings(deadline=None, max_examples=60)
@given(drawn=PLANS)
def test_every_source_tensor_is_consumed(drawn: Mapping[str, Any]) -> None:
    """Each by a step, or by several that share it out; what has no expert keeps its name."""
    plan = plan_from(drawn)
    given_to: dict[str, set[str]] = {}
    for step in steps_of(plan):
        for info in step.inputs:
            given_to.setdefault(info.name, set()).add(step.name)
    assert given_to.keys() == plan.checkpoint.tensors.keys()
    assert len(names_of(plan)) == len(steps_of(plan))
    for name, info in plan.checkpoint.tensors.items():
        if ".experts." not in name:
            step = next(step for step in steps_of(plan) if step.name == name)
            assert given_to[name] == {name}
            assert (step.inputs, step.is_copy, step.expert) == ((info,), True, None)
            assert (step.dtype, step.shape) == (info.dtype, info.shape)


@pytest.mark.parametrize("target", ["per-expert", *MERGED])
@pytest.mark.parametrize("source", ["per-expert", *MERGED])
def test_names_and_shapes_of_the_output(source: str, target: str) -> None:
    """Every layout becomes every other one, tensor by tensor, whatever was in between."""
    sizes: dict[str, Any] = {"layers": 2, "e": 12, "i": 3, "h": 5}
    plan = planned(model(**sizes, layout=source), target, declared_layout=source)
    found = {step.name: (step.dtype, step.shape) for step in steps_of(plan)}
    assert found == model(**sizes, layout=target)


def test_a_layout_that_is_there_already_is_copied() -> None:
    """Stacks that have the layout pass through tensor by tensor."""
    plan = planned(model(layout="stacked"), "stacked")
    assert all(step.is_copy and len(step.inputs) == 1 for step in steps_of(plan))


def test_layers_of_other_dtypes() -> None:
    """Each layer's experts move as elements of their own width, whatever the first layer has."""
    tensors = model(layers=0)
    for layer, dtype in enumerate(["BF16", "F32", "F8_E4M3"]):
        tensors |= experts(f"model.layers.{layer}.mlp.", 3, 4, 5, dtype=dtype)
    plan = planned(tensors, "fused-transposed")
    assert plan.data_bytes == plan.checkpoint.total_bytes
    for step in steps_of(plan):
        assert step.nbytes == math.prod(step.shape) * BITS[step.dtype] // 8, step.name
        if not step.is_copy:
            assert step.sections[0].itemsize * 8 == BITS[step.dtype]


def test_layers_of_which_one_has_biases() -> None:
    """They are planned, each with the weights that it has, or refused with words."""
    tensors = model(layers=0)
    for layer in range(2):
        tensors |= experts(f"model.layers.{layer}.mlp.", 3, 4, 5)
    for expert, (name, size) in itertools.product(
        range(3), {"gate_proj": 4, "up_proj": 4, "down_proj": 5}.items()
    ):
        tensors[f"model.layers.1.mlp.experts.{expert}.{name}.bias"] = ("BF16", (size,))
    try:
        plan = planned(tensors)
    except StreamconvError:
        return
    assert "model.layers.1.mlp.experts.gate_up_proj_bias" in names_of(plan)
    assert "model.layers.0.mlp.experts.gate_up_proj_bias" not in names_of(plan)
    assert plan.data_bytes == plan.checkpoint.total_bytes


@pytest.mark.parametrize(
    ("text", "kept"), [("0:2", {0, 1}), ("2:4", {2, 3}), ("11", {11}), ("1:", {*range(1, 13)})]
)
@pytest.mark.parametrize("source", ["per-expert", "fused"])
def test_only_some_layers(text: str, kept: set[int], source: str) -> None:
    """These layers whole, dense ones too, and all that belongs to no layer; the record says so."""
    tensors = model(layers=12, e=11, i=2, h=3, layout=source)
    target = "stacked"
    plan = planned(tensors, target, layers=parse_layers(text))
    layer = re.compile(r"model\.layers\.(\d+)\.")
    expected = {
        name
        for name in model(layers=12, e=11, i=2, h=3, layout=target)
        if not (match := layer.match(name)) or int(match[1]) in kept
    }
    assert names_of(plan) == expected
    assert "visual.blocks.0.weight" in expected
    begin, _, end = str(plan.record.layers).partition(":")
    assert {k for k in range(13) if int(begin) <= k < int(end)} == kept
    check_pieces(plan)


def test_layers_of_every_stack_are_meant() -> None:
    """The thinker's and the talker's alike."""
    tensors = omni()
    tensors |= experts("thinker.model.layers.1.mlp.", 11, 3, 5)
    tensors |= experts("talker.model.layers.1.mlp.", 12, 2, 7)
    plan = planned(tensors, "mindspeed", model_type=OMNI, layers=range(1, 2))
    assert names_of(plan) == {
        "lm_head.weight",
        "talker.codec_head.weight",
        "code2wav.conv.weight",
        "model.layers.1.mlp.experts.gate_up_proj",
        "model.layers.1.mlp.experts.down_proj",
        *experts("talker.model.layers.1.mlp.", 12, 2, 7),
    }


def test_layers_that_leave_nothing() -> None:
    """A range in which there is no tensor is an error with words."""
    with pytest.raises(StreamconvError):
        planned(experts("model.layers.0.mlp.", 2, 3, 4), layers=range(5, 6))


def test_layers_are_numbers_in_names() -> None:
    """What only looks like a number is no layer, and is kept."""
    tensors = model(layers=1) | {"model.layers.²x.weight": ("BF16", (2,))}
    tensors |= {"model.layers.².weight": ("BF16", (2,)), "model.layers.": ("BF16", (2,))}
    plan = planned(tensors, layers=range(1))
    assert {"model.layers.²x.weight", "model.layers.².weight", "model.layers."} <= names_of(plan)


def test_a_step_is_found_by_its_name() -> None:
    """The same one that the shards have, but for its place; a name that no tensor has is none's."""
    plan = planned(model(layers=12, e=11, layout="fused"), "per-expert", max_shard_bytes=3000)
    assert len(plan.shards) > 2
    for step in steps_of(plan):
        assert replace(step, offset=0) == plan.step(step.name)
    assert [step.name for step in plan.steps] == sorted(names_of(plan), key=natural_key)
    with pytest.raises(KeyError):
        plan.step("model.layers.0.mlp.experts.11.gate_proj.weight")


def test_a_plan_holds_a_few_bytes_for_each_output() -> None:
    """Its steps, shards and pieces together: about what a name has, far less than a step."""
    tensors = model(layers=20, e=150, i=1, h=1, layout="fused")
    checkpoint = planned(tensors, "per-expert").checkpoint
    found = detect(checkpoint, default_catalog())
    target = resolve_target(found, "per-expert", "asked")
    limits = Limits(0)
    list(make_plan(checkpoint, found, target, max_shard_bytes=10**9, limits=limits).pieces())
    gc.collect()
    tracemalloc.start()
    try:
        plan = make_plan(checkpoint, found, target, max_shard_bytes=10**9, limits=limits)
        pieces = list(plan.pieces())
        gc.collect()
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    outputs = sum(len(shard.steps) for shard in plan.shards)
    assert outputs > 20 * 150 * 3
    assert sum(len(piece.parts) for piece in pieces) >= outputs
    assert held / outputs < 150


@settings(deadline=None, max_examples=40)
@given(drawn=PLANS)
def test_inputs_are_counted_as_they_are_yielded(drawn: Mapping[str, Any]) -> None:
    """Once each."""
    steps = plan_from(drawn).steps
    names = [info.name for info in steps.inputs()]
    assert steps.count_inputs() == len(names) == len(set(names))
