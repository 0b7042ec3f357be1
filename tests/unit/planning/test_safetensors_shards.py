"""Shards are those of the hub's splitter, and headers say where tensors are."""

import itertools
import json
import re
from collections.abc import Mapping
from typing import Any

import pytest
from header_models import BITS, PLANS, header_bytes, model, plan_from, planned, steps_of
from huggingface_hub import split_state_dict_into_shards_factory
from hypothesis import given, settings
from hypothesis import strategies as st

from streamconv.errors import PlanRefused
from streamconv.planning.safetensors_shards import build_index
from streamconv.planning.shards import Shard
from streamconv.planning.steps import Step


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


def test_no_tensor_has_the_name_of_the_metadata() -> None:
    """A DCP can have it, and a rename can give it; safetensors could not read the file."""
    named = {**model(), "__metadata__": ("BF16", (2,))}
    with pytest.raises(PlanRefused, match="cannot write a tensor called __metadata__"):
        planned(named)


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
        raw = b"".join(plan.format.framing_bytes(shard, 0))
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


@settings(deadline=None, max_examples=30)
@given(
    cuts=st.lists(st.sampled_from([1, 2, 499, 500, 501]), min_size=1, max_size=4),
    name=st.text(max_size=3),
)
def test_an_index_in_parts_is_the_json_of_the_whole(cuts: list[int], name: str) -> None:
    """Byte by byte what json.dumps makes of all of it, sorted by names."""
    numbers = itertools.count()
    shards = [
        Shard(f"{name}-{k}", tuple(a_step(f"{name}.{next(numbers)}") for _ in range(count)), 0, k)
        for k, count in enumerate(cuts)
    ]
    weight_map = {step.name: shard.name for shard in shards for step in shard.steps}
    whole = {
        "metadata": {"total_size": sum(range(len(cuts)))},
        "weight_map": dict(sorted(weight_map.items())),
    }
    assert build_index(shards) == (json.dumps(whole, indent=2) + "\n").encode("ascii")


def a_step(name: str) -> Step:
    return Step(name, "BF16", (), 0, (), ())
