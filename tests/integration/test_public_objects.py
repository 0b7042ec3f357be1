"""Every object that the public functions return prints as a line, whatever the model's size."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from folders import qwen_tensors, two_shards, write_checkpoint, write_sparse

import streamconv

CONFIG = {"model_type": "qwen3_moe", "num_experts": 3}
LONGEST = 400


def parts(thing: Any, seen: set[int]) -> Iterator[Any]:
    """Yield an object of the package, and those that its public attributes have."""
    if id(thing) in seen or not type(thing).__module__.startswith("streamconv"):
        return
    seen.add(id(thing))
    yield thing
    names = [name for name in dir(type(thing)) if not name.startswith("_")]
    fields = (
        [field.name for field in dataclasses.fields(thing)]
        if dataclasses.is_dataclass(thing)
        else []
    )
    for name in {*names, *fields}:
        try:
            value = getattr(thing, name)
        except Exception:
            continue
        values = value[:3] if isinstance(value, tuple | list) else [value]
        for each in values:
            yield from parts(each, seen)


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Whatever is returned, and every event."""
    place = tmp_path_factory.mktemp("objects")
    src = write_checkpoint(place / "src", two_shards(qwen_tensors()), CONFIG)
    events: list[Any] = []
    result = streamconv.merge(src, place / "dst", verify=True, on_event=events.append)
    lazy = streamconv.open(src, "fused")
    module = torch.nn.Module()
    return [
        *(result, result.verification, streamconv.inspect(src), lazy, *events),
        *(lazy[name] for name in lazy),
        streamconv.load(module, src, strict=False),
        streamconv.verify(src, src),
        streamconv.BadCheckpoint("cannot x: y"),
    ]


def test_each_is_a_line(objects: list[Any]) -> None:
    """Also what can be reached from it."""
    seen: set[int] = set()
    found = [part for thing in objects for part in parts(thing, seen)]
    kinds = {type(part).__name__ for part in found}
    assert {
        "Plan",
        "Result",
        "Detected",
        "Checkpoint",
        "Stack",
        "Catalog",
        "Piece",
    } <= kinds
    lengths = {type(part): len(repr(part)) for part in sorted(found, key=lambda p: len(repr(p)))}
    assert {kind: length for kind, length in lengths.items() if length > LONGEST} == {}
    assert {type(part) for part in found if "\n" in repr(part)} == set()


def test_a_plan_of_true_size(tmp_path: Path) -> None:
    """48 layers of 128 experts: the facts of the plan in a line."""
    src = write_sparse(tmp_path / "Qwen", layers=48, experts=128, hidden=64, intermediate=32)
    plan = streamconv.plan(src)
    assert len(repr(plan)) < 200
    assert "hub to transformers" in repr(plan)
    assert f"{len(plan.steps):,} tensors in {len(plan.shards):,} shard" in repr(plan)
    assert len(repr(streamconv.inspect(src))) < 200


def test_names_in_it_are_untrusted(tmp_path: Path) -> None:
    """No control character of a checkpoint reaches the terminal by `repr`."""
    src = write_checkpoint(
        tmp_path / "s\x1b[31m\n", two_shards(qwen_tensors()), {"model_type": "x\x1b[0m\n"}
    )
    for thing in (streamconv.inspect(src), streamconv.plan(src), streamconv.open(src)):
        assert repr(thing).isprintable()
