"""Plans made from headers alone: every output byte has its place, every source byte its use.

Checkpoints are made up here as their headers would describe them; there are no files.
"""

import builtins
import io
import itertools
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import pytest
from huggingface_hub import split_state_dict_into_shards_factory
from hypothesis import given, settings
from hypothesis import strategies as st

from streamconv.catalog.catalog import default_catalog
from streamconv.checkpoint.types import Checkpoint, TensorInfo
from streamconv.detection.detect import detect
from streamconv.errors import PlanRefused, StreamconvError, UsageError
from streamconv.options import parse_layers
from streamconv.planning.memory import STAGING_BYTES, Limits, Memory, fit_memory
from streamconv.planning.plan import PIECE_BYTES, Piece, Plan, make_plan
from streamconv.planning.shards import FramingBytes, Shard, ShardPart, StepBytes
from streamconv.planning.steps import Step
from streamconv.planning.target import resolve_target

BITS = {"F4": 4, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "BF16": 16, "F32": 32, "I64": 64}
Tensors = dict[str, tuple[str, tuple[int, ...]]]
LIMITS = Limits(base=10**7)
MERGED = ("fused", "fused-transposed", "fused-flat", "stacked", "fused-interleaved")


def experts(
    prefix: str, e: int, i: int, h: int, layout: str = "per-expert", dtype: str = "BF16"
) -> Tensors:
    """The experts of one layer."""
    if layout == "per-expert":
        return {
            f"{prefix}experts.{k}.{name}.weight": (dtype, shape)
            for k in range(e)
            for name, shape in (
                ("gate_proj", (i, h)),
                ("up_proj", (i, h)),
                ("down_proj", (h, i)),
            )
        }
    if layout == "stacked":
        return {
            f"{prefix}experts.gate_proj": (dtype, (e, i, h)),
            f"{prefix}experts.up_proj": (dtype, (e, i, h)),
            f"{prefix}experts.down_proj": (dtype, (e, h, i)),
        }
    gate_up, down = {
        "fused": ((e, 2 * i, h), (e, h, i)),
        "fused-transposed": ((e, h, 2 * i), (e, i, h)),
        "fused-interleaved": ((e, h, 2 * i), (e, i, h)),
        "fused-flat": ((e * h, 2 * i), (e * i, h)),
    }[layout]
    return {
        f"{prefix}experts.gate_up_proj": (dtype, gate_up),
        f"{prefix}experts.down_proj": (dtype, down),
    }


def model(
    *, layers: int = 2, e: int = 12, i: int = 6, h: int = 10, layout: str = "per-expert"
) -> Tensors:
    """A model like Qwen3-MoE, with odd tensors beside the experts; layer 0 is dense."""
    tensors: Tensors = {
        "lm_head.weight": ("BF16", (5, h)),
        "model.embed_tokens.weight": ("BF16", (5, h)),
        "model.norm.weight": ("F32", (h,)),
        "model.a_counter": ("I64", ()),
        "model.a_flag": ("BOOL", (3,)),
        "model.a_packed": ("F4", (3, 2)),
        "model.nothing": ("BF16", (0, 7)),
        "visual.blocks.0.weight": ("BF16", (3, 3)),
        "model.layers.0.mlp.up_proj.weight": ("BF16", (i, h)),
    }
    for layer in range(1, layers + 1):
        prefix = f"model.layers.{layer}."
        tensors[f"{prefix}input_layernorm.weight"] = ("F32", (h,))
        tensors[f"{prefix}mlp.gate.weight"] = ("F32", (e, h))
        tensors[f"{prefix}a_scale"] = ("U8", (1,))
        tensors |= experts(f"{prefix}mlp.", e, i, h, layout)
    return tensors


def checkpoint_of(tensors: Tensors, model_type: str = "qwen3_moe", files: int = 3) -> Checkpoint:
    """What headers would say, the tensors dealt out over some files."""
    ends = [0] * files
    infos = {}
    for number, (name, (dtype, shape)) in enumerate(tensors.items()):
        nbytes = math.prod(shape) * BITS[dtype] // 8
        file = number % files
        infos[name] = TensorInfo(name, dtype, shape, f"{file}.safetensors", ends[file], nbytes)
        ends[file] += nbytes
    return Checkpoint(
        location="/nowhere/at/all",
        tensors=infos,
        files=(),
        others=(),
        config={"model_type": model_type},
        record=None,
        total_bytes=sum(ends),
    )


def planned(
    tensors: Tensors,
    to: str = "fused",
    *,
    declared_layout: str | None = None,
    model_type: str = "qwen3_moe",
    max_shard_bytes: int = 10**12,
    limits: Limits = LIMITS,
    layers: range | None = None,
) -> Plan:
    checkpoint = checkpoint_of(tensors, model_type)
    found = detect(checkpoint, default_catalog(), declared_layout)
    return make_plan(
        checkpoint,
        found,
        resolve_target(found, to, "asked"),
        max_shard_bytes=max_shard_bytes,
        limits=limits,
        layers=layers,
    )


def steps_of(plan: Plan) -> list[Step]:
    return [step for shard in plan.shards for step in shard.steps]


def names_of(plan: Plan) -> set[str]:
    return {step.name for step in steps_of(plan)}


SIZE = st.integers(1, 12)
PLANS = st.fixed_dictionaries(
    {
        "sizes": st.fixed_dictionaries(
            {"layers": st.integers(1, 3), "e": SIZE, "i": SIZE, "h": SIZE}
        ),
        "source": st.sampled_from(["per-expert", *MERGED]),
        "target": st.sampled_from(["per-expert", *MERGED]),
        "max_shard_bytes": st.integers(1, 20_000),
    }
)


def plan_from(drawn: Mapping[str, Any], limits: Limits = LIMITS) -> Plan:
    return planned(
        model(**drawn["sizes"], layout=drawn["source"]),
        drawn["target"],
        declared_layout=drawn["source"],
        max_shard_bytes=drawn["max_shard_bytes"],
        limits=limits,
    )


# --- every byte --------------------------------------------------------------------------------


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


# --- pieces ------------------------------------------------------------------------------------


def header_bytes(shard: Shard) -> int:
    return shard.nbytes - shard.data_bytes


def segments_of(piece: Piece) -> list[StepBytes]:
    return [part for part in piece.parts if isinstance(part, StepBytes)]


def check_pieces(plan: Plan) -> None:
    """Pieces tile every shard, header first, and their segments the steps, in order."""
    by_shard = {k: list(group) for k, group in itertools.groupby(plan.pieces(), lambda p: p.shard)}
    assert list(by_shard) == list(range(len(plan.shards)))
    for number, shard in enumerate(plan.shards):
        position = 0
        parts: list[ShardPart] = []
        for piece in by_shard[number]:
            assert piece.offset == position
            assert piece.nbytes == sum(part.nbytes for part in piece.parts) > 0
            position += piece.nbytes
            parts += piece.parts
        assert position == shard.nbytes
        assert parts[0] == FramingBytes(0, header_bytes(shard))
        segments = parts[1:]
        place = 0
        for segment in segments:
            assert isinstance(segment, StepBytes)
            assert segment.step in shard.steps
            assert segment.step.offset + segment.unit * segment.how.unit_bytes == (
                place - segment.begin
            )
            assert 0 <= segment.begin < segment.end <= segment.how.unit_bytes
            whole = (0, segment.how.unit_bytes)
            assert segment.how.is_copy or (segment.begin, segment.end) == whole
            place += segment.end - segment.begin
        assert place == shard.data_bytes


@settings(deadline=None, max_examples=60)
@given(drawn=PLANS)
def test_pieces_tile_small_shards(drawn: Mapping[str, Any]) -> None:
    """Of shards smaller than a piece, and of the smallest ones that there are."""
    check_pieces(plan_from(drawn))


TRUE_SIZE: dict[str, Any] = {"layers": 2, "e": 12, "i": 768, "h": 2048}


@pytest.mark.parametrize("target", ["per-expert", *MERGED])
@pytest.mark.parametrize("source", ["per-expert", *MERGED])
@pytest.mark.parametrize("max_shard_bytes", [10**12, 40_000_000])
def test_pieces_of_true_size(source: str, target: str, max_shard_bytes: int) -> None:
    """They tile the shards, end where an expert or tensor does, and no later than they need."""
    plan = planned(
        model(**TRUE_SIZE, layout=source),
        target,
        declared_layout=source,
        max_shard_bytes=max_shard_bytes,
    )
    check_pieces(plan)
    an_expert = 3 * 768 * 2048 * 2
    pieces = list(plan.pieces())
    assert len(pieces) > 2 * 12 // 2
    assert all(piece.nbytes < PIECE_BYTES + an_expert for piece in pieces)
    for piece, after in itertools.pairwise(pieces):
        first, last = after.parts[0], piece.parts[-1]
        if piece.shard == after.shard:
            assert isinstance(first, StepBytes)
            assert isinstance(last, StepBytes)
            assert piece.nbytes >= PIECE_BYTES
            assert first.begin % PIECE_BYTES == 0
            assert first.step.expert is None or first.begin == 0
            owners = [(s.step.module, s.step.expert) for s in (first, last)]
            assert first.step.expert is None or owners[0] != owners[1]


@pytest.mark.parametrize("target", ["fused-transposed", "fused-interleaved", "fused"])
def test_experts_larger_than_a_piece(target: str) -> None:
    """What is rearranged is made whole, what is copied is cut where a piece is full."""
    sizes: dict[str, Any] = {"layers": 1, "e": 3, "i": 2048, "h": 4096}
    plan = planned(model(**sizes), target)
    check_pieces(plan)
    unit = 2 * 2048 * 4096 * 2
    begins = {
        segment.begin
        for piece in plan.pieces()
        for segment in segments_of(piece)
        if segment.step.name.endswith("gate_up_proj")
    }
    assert begins == ({0} if target != "fused" else set(range(0, unit, PIECE_BYTES)))
    at_once = unit if target != "fused" else PIECE_BYTES
    assert all(piece.nbytes < PIECE_BYTES + at_once for piece in plan.pieces())


def test_the_tensors_of_an_expert_are_one_piece() -> None:
    """Where every expert has tensors of its own, a piece holds whole experts, however large."""
    sizes: dict[str, Any] = {"layers": 1, "e": 11, "i": 2048, "h": 4096}
    plan = planned(model(**sizes, layout="fused"), "per-expert")
    holder: dict[Any, set[int]] = {}
    for number, piece in enumerate(plan.pieces()):
        for segment in segments_of(piece):
            if segment.step.expert is not None:
                holder.setdefault(segment.step.expert, set()).add(number)
    assert sorted(holder) == list(range(11))
    assert all(len(pieces) == 1 for pieces in holder.values())


@pytest.mark.parametrize("target", ["fused", "fused-transposed"])
def test_pieces_do_not_depend_on_workers(target: str) -> None:
    """Nor on how much memory they have: digests of any two runs can be compared."""
    found = [
        list(planned(model(**TRUE_SIZE), target, limits=limits).pieces())
        for limits in (
            Limits(0, 1),
            Limits(0, 7),
            Limits(10**8, 7, allowed=120_000_000),
            Limits(0, 3, allowed=10**9),
        )
    ]
    assert len(found[0]) > 3
    assert all(pieces == found[0] for pieces in found)


# --- shards ------------------------------------------------------------------------------------


def by_numbers(name: str) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


@settings(deadline=None, max_examples=60)
@given(drawn=PLANS)
def test_shards_are_those_of_the_hubs_splitter(drawn: Mapping[str, Any]) -> None:
    """Its file names and cuts, of tensors in natural order."""
    plan = plan_from(drawn)
    sizes = {step.name: step.nbytes for step in steps_of(plan)}
    split = split_state_dict_into_shards_factory(
        {name: sizes[name] for name in sorted(sizes, key=by_numbers)},
        get_storage_size=lambda nbytes: nbytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=drawn["max_shard_bytes"],
    )
    assert {shard.name: sorted(step.name for step in shard.steps) for shard in plan.shards} == {
        file: sorted(names) for file, names in split.filename_to_tensors.items()
    }
    for shard in plan.shards:
        assert shard.data_bytes <= drawn["max_shard_bytes"] or (
            sum(1 for step in shard.steps if step.nbytes) == 1
        )


def test_shards_by_name() -> None:
    """One file has the plain name, several are counted; the tenth expert comes after the ninth."""
    assert [shard.name for shard in planned(model()).shards] == ["model.safetensors"]
    plan = planned(model(e=11, layout="fused"), "per-expert", max_shard_bytes=500)
    count = len(plan.shards)
    assert [shard.name for shard in plan.shards] == [
        f"model-{k:05d}-of-{count:05d}.safetensors" for k in range(1, count + 1)
    ]
    numbers = [s.expert for s in steps_of(plan) if s.module == "model.layers.1.mlp."]
    assert numbers == sorted(itertools.chain(*[range(11)] * 3))


@settings(deadline=None, max_examples=60)
@given(drawn=PLANS)
def test_order_and_alignment(drawn: Mapping[str, Any]) -> None:
    """Shards in natural order; in a shard wide elements first, each on a multiple of its width.

    The splitter puts a tensor that is too large for any shard into one of its own at once.
    """
    plan = plan_from(drawn)
    cut = [shard for shard in plan.shards if shard.data_bytes <= drawn["max_shard_bytes"]]
    keys = [[by_numbers(step.name) for step in shard.steps] for shard in cut]
    assert all(max(before) < min(after) for before, after in itertools.pairwise(keys))
    for shard in plan.shards:
        assert header_bytes(shard) % 4096 == 0
        assert shard.data_bytes == sum(step.nbytes for step in shard.steps)
        order = [(-BITS[step.dtype], by_numbers(step.name)) for step in shard.steps]
        assert order == sorted(order)
        position = 0
        for step in shard.steps:
            assert step.offset == position
            assert (header_bytes(shard) + step.offset) % max(BITS[step.dtype] // 8, 1) == 0
            position += step.nbytes


@settings(deadline=None, max_examples=30)
@given(drawn=PLANS)
def test_headers_are_as_long_as_planned(drawn: Mapping[str, Any]) -> None:
    """And say of every tensor where it is, and of the file what is in it."""
    plan = plan_from(drawn)
    for shard in plan.shards:
        raw = plan.format.framing_bytes(shard, 0)
        assert len(raw) == header_bytes(shard)
        assert int.from_bytes(raw[:8], "little") == len(raw) - 8
        fields = json.loads(raw[8:])
        metadata = fields.pop("__metadata__")
        assert metadata["format"] == "pt"
        record = json.loads(metadata["streamconv"])
        assert {row["layout"] for row in record["stacks"].values()} == {drawn["target"]}
        assert record["layers"] is None
        assert fields == {
            step.name: {
                "dtype": step.dtype,
                "shape": list(step.shape),
                "data_offsets": [step.offset, step.offset + step.nbytes],
            }
            for step in shard.steps
        }


# --- names -------------------------------------------------------------------------------------


def omni(**other: tuple[str, tuple[int, ...]]) -> Tensors:
    return {
        "thinker.lm_head.weight": ("BF16", (3, 5)),
        "talker.codec_head.weight": ("BF16", (3, 5)),
        "code2wav.conv.weight": ("BF16", (3,)),
        **other,
        **experts("thinker.model.layers.0.mlp.", 11, 3, 5),
        **experts("talker.model.layers.0.mlp.", 12, 2, 7),
    }


def test_a_form_renames_and_leaves_what_it_does_not_mention() -> None:
    """The thinker loses its prefix and is merged, the talker stays as it is."""
    found = {
        step.name: step.shape for step in steps_of(planned(omni(), "mindspeed", model_type=OMNI))
    }
    assert found == {
        "lm_head.weight": (3, 5),
        "talker.codec_head.weight": (3, 5),
        "code2wav.conv.weight": (3,),
        "model.layers.0.mlp.experts.gate_up_proj": (11, 5, 6),
        "model.layers.0.mlp.experts.down_proj": (11, 3, 5),
        **{n: shape for n, (_, shape) in experts("talker.model.layers.0.mlp.", 12, 2, 7).items()},
    }


OMNI = "qwen3_omni_moe"


@pytest.mark.parametrize(
    ("name", "fact"),
    [
        ("lm_head.weight", "two tensors would be called lm_head.weight"),
        ("lm_head.bias", "tensor lm_head.bias would not come back"),
        ("thinker.talker.weight", "tensor thinker.talker.weight would not come back"),
        ("thinker.thinker.weight", "tensor thinker.thinker.weight would not come back"),
    ],
)
def test_names_that_would_not_come_back_are_refused(name: str, fact: str) -> None:
    """Two tensors of one name, and one that would get another name on the way back."""
    with pytest.raises(PlanRefused, match=re.escape(fact)):
        planned(omni(**{name: ("BF16", (2,))}), "mindspeed", declared_layout="hub", model_type=OMNI)


def test_nothing_to_convert_is_refused() -> None:
    """A checkpoint without experts."""
    with pytest.raises(PlanRefused, match="no expert"):
        planned(model(layers=0))


# --- layers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("0:2", {0, 1}),
        ("3", {3}),
        ("0", {0}),
        (":2", {0, 1}),
        ("61:62", {61}),
    ],
)
def test_parse_layers(text: str, layers: set[int]) -> None:
    """A range as Python writes it, or one layer."""
    assert set(parse_layers(text)) == layers


def test_parse_layers_without_an_end() -> None:
    """From one layer on."""
    assert [k for k in (0, 1, 10_000) if k in parse_layers("1:")] == [1, 10_000]


@pytest.mark.parametrize(
    "text", ["", "-1", "2:1", "2:2", "0:-1", "-2:", "a", "0:b", "1:2:3", "1.5"]
)
def test_parse_layers_refuses(text: str) -> None:
    """What is no range, or an empty one."""
    with pytest.raises(UsageError):
        parse_layers(text)


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


def test_steps_are_grouped_by_layer() -> None:
    """Each step once, layers in their order, what is in none at the end."""
    plan = planned(model(layers=11))
    grouped = plan.steps_by_layer()
    assert [*grouped] == [*(("model.layers.", k) for k in range(12)), None]
    assert Counter(s.name for steps in grouped.values() for s in steps) == Counter(names_of(plan))
    assert "visual.blocks.0.weight" in {step.name for step in grouped[None]}


# --- memory ------------------------------------------------------------------------------------


def fitted(allowed: int | None, jobs: int = 4, source_buffer: int = 5 * 10**6) -> Memory:
    return fit_memory(Limits(10**7, jobs, allowed), source_buffer, "the.widest")


def test_memory_without_a_limit() -> None:
    """All workers."""
    memory = fitted(None)
    assert (memory.jobs, memory.staging, memory.allowed) == (4, STAGING_BYTES, None)
    assert (memory.base, memory.source_buffer) == (10**7, 5 * 10**6)
    assert memory.peak >= 10**7 + 4 * (5 * 10**6 + STAGING_BYTES)


def test_workers_are_given_up() -> None:
    """With less and less memory: never more than is allowed, never fewer than is needed."""
    chosen = []
    for allowed in range(fitted(None).peak, 0, -100_000):
        try:
            memory = fitted(allowed)
        except PlanRefused:
            break
        assert memory.peak <= allowed == memory.allowed
        chosen.append(memory.jobs)
    assert [jobs for jobs, _ in itertools.groupby(chosen)] == [4, 3, 2, 1]


@settings(deadline=None, max_examples=100)
@given(
    jobs=st.integers(1, 9),
    source_buffer=st.integers(0, 10**9),
    allowed=st.integers(1, 3 * 10**9),
)
def test_memory_is_kept_or_refused(jobs: int, source_buffer: int, allowed: int) -> None:
    """What the refusal asks for is enough, and one megabyte less is not."""
    try:
        memory = fitted(allowed, jobs, source_buffer)
    except PlanRefused as refused:
        asked = re.search(r"--max-memory (\d+)MB", refused.hint)
        assert asked is not None
        enough = int(asked[1]) * 10**6
        assert enough > allowed
        assert fitted(enough, jobs, source_buffer).jobs == 1
        with pytest.raises(PlanRefused):
            fitted(enough - 10**6, jobs, source_buffer)
    else:
        assert memory.peak <= allowed
        assert 1 <= memory.jobs <= jobs


def test_a_refusal_has_the_figures() -> None:
    """What is needed, for which tensor, and what is allowed."""
    with pytest.raises(PlanRefused) as caught:
        planned(model(**TRUE_SIZE), "fused-transposed", limits=Limits(10**7, allowed=12 * 10**6))
    assert "model.layers.1.mlp.experts.gate_up_proj" in caught.value.message
    assert "6.29 MB at once" in caught.value.message
    assert "allowed are 12.0 MB" in caught.value.message
    with pytest.raises(PlanRefused, match=r"one worker; allowed are 10\.1 MB"):
        planned(model(**TRUE_SIZE), "fused", limits=Limits(10**7, allowed=10_100_000))


def test_memory_depends_on_an_expert_alone() -> None:
    """Not on how many of them there are, nor on layers; copies need nothing but staging."""
    few = planned(model(layers=1, e=2, i=768, h=2048), "fused-transposed").memory
    many = planned(model(layers=9, e=40, i=768, h=2048), "fused-transposed").memory
    assert few == many
    assert few.source_buffer == 2 * 768 * 2048 * 2
    assert planned(model(**TRUE_SIZE), "fused").memory.source_buffer == 0


# --- headers alone -----------------------------------------------------------------------------


def test_a_plan_reads_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor looks at one; the tables of layouts have been loaded by then."""
    planned(model())

    def touched(*what: Any, **_: Any) -> NoReturn:
        raise AssertionError(f"{what} was opened for a plan")

    for place, name in (
        (builtins, "open"),
        (io, "open"),
        (os, "open"),
        (os, "stat"),
        (os, "listdir"),
        (os, "scandir"),
        (Path, "open"),
        (Path, "stat"),
    ):
        monkeypatch.setattr(place, name, touched)
    plan = planned(model(layers=3), "fused-transposed", max_shard_bytes=1000)
    pieces = list(plan.pieces())
    headers = [plan.format.framing_bytes(shard, 0) for shard in plan.shards]
    monkeypatch.undo()
    assert len(headers) > 1
    assert len(pieces) >= len(headers)
