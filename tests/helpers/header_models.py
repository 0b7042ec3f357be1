"""Checkpoints as their headers would describe them, without files, and plans of these."""

import itertools
import math
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from streamconv.catalog.catalog import default_catalog
from streamconv.checkpoint.types import Checkpoint, TensorInfo
from streamconv.detection.detect import detect
from streamconv.planning.make_plan import make_plan
from streamconv.planning.memory import Limits
from streamconv.planning.plan import Piece, Plan
from streamconv.planning.shards import FramingBytes, Shard, ShardPart, StepBytes
from streamconv.planning.steps import Step
from streamconv.planning.target import resolve_target

BITS = {"F4": 4, "U8": 8, "I8": 8, "BOOL": 8, "F8_E4M3": 8, "BF16": 16, "I32": 32, "F32": 32}
BITS |= {"I64": 64}
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
    """A model like Qwen3-MoE, with odd tensors next to the experts; layer 0 is dense."""
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


OMNI = "qwen3_omni_moe"


TRUE_SIZE: dict[str, Any] = {"layers": 2, "e": 12, "i": 768, "h": 2048}


def omni(**other: tuple[str, tuple[int, ...]]) -> Tensors:
    return {
        "thinker.lm_head.weight": ("BF16", (3, 5)),
        "talker.codec_head.weight": ("BF16", (3, 5)),
        "code2wav.conv.weight": ("BF16", (3,)),
        **other,
        **experts("thinker.model.layers.0.mlp.", 11, 3, 5),
        **experts("talker.model.layers.0.mlp.", 12, 2, 7),
    }


def header_bytes(shard: Shard) -> int:
    return shard.nbytes - shard.data_bytes


def step_parts_of(piece: Piece) -> list[StepBytes]:
    return [part for part in piece.parts if isinstance(part, StepBytes)]


def check_pieces(plan: Plan) -> None:
    """Pieces tile every shard, header first, and their parts the steps, in order."""
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
        step_parts = parts[1:]
        place = 0
        for part in step_parts:
            assert isinstance(part, StepBytes)
            assert part.step in shard.steps
            assert part.step.offset + part.unit * part.how.unit_bytes == (place - part.begin)
            assert 0 <= part.begin < part.end <= part.how.unit_bytes
            whole = (0, part.how.unit_bytes)
            assert part.how.is_copy or (part.begin, part.end) == whole
            place += part.end - part.begin
        assert place == shard.data_bytes
