"""Every object that the public functions return prints as a line, whatever the model's size."""

import copy
import dataclasses
import pickle
from collections.abc import Callable, Iterator
from dataclasses import asdict, astuple, is_dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from folders import qwen_tensors, two_shards, write_checkpoint, write_sparse

import streamconv
from streamconv.lazy.not_copied import NotCopied
from streamconv.torch import StorageReader

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


def test_values_are_pickled_and_copied(objects: list[Any]) -> None:
    """So that they can be sent to another process, and do there what they do here."""
    kinds = set()
    for thing in objects:
        if isinstance(thing, NotCopied):
            continue
        for same in (pickle.loads(pickle.dumps(thing)), copy.deepcopy(thing), copy.copy(thing)):
            assert type(same) is type(thing)
            assert facts(same) == facts(thing)
        kinds.add(type(thing).__name__)
    assert {"Result", "Verification", "Inspection", "Loaded", "BadCheckpoint"} < kinds
    assert {each.__name__ for each in get_args(streamconv.Event)} - kinds == {
        *("HashStarted", "HashProgress")
    }


def facts(thing: Any) -> object:
    """What a value says of itself, and of the tensors of its plan."""
    plan = thing if isinstance(thing, streamconv.Plan) else getattr(thing, "plan", None)
    if plan is not None:
        files = [(shard.name, shard.nbytes, [*shard.steps]) for shard in plan.shards]
        pieces = [*plan.pieces()]
        return repr(thing), plan.memory, [*plan.steps], files, pieces, plan.layer_paths, plan.edited
    if isinstance(thing, streamconv.Inspection):
        return repr(thing), thing.layouts, thing.checkpoint, thing.model_type, thing.form
    if isinstance(thing, Exception):
        return thing.args, vars(thing)
    return thing


def test_errors_are_pickled() -> None:
    """With all that they have: other processes raise them again."""
    for name in streamconv.__all__:
        kind = getattr(streamconv, name)
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            continue
        error = kind("cannot x: y", "do z")
        error.add_note("a note")
        if isinstance(error, streamconv.Interrupted):
            error.signal = 15
        for same in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
            assert (type(same), same.args, vars(same)) == (kind, error.args, vars(error))


def test_what_has_open_files_is_neither_pickled_nor_copied(tmp_path: Path) -> None:
    """In one line that says what to do instead."""
    src = write_checkpoint(tmp_path / "src", two_shards(qwen_tensors()), CONFIG)
    with streamconv.open(src) as lazy, StorageReader(src) as reader:
        relay = streamconv.relay((), to="fused", config=CONFIG)
        for thing in (lazy, lazy[lazy.keys()[0]], reader, relay):
            for duplicate in (pickle.dumps, copy.copy, copy.deepcopy):
                said = rf"^cannot pickle or copy a {type(thing).__name__}: it .* in each process$"
                with pytest.raises(TypeError, match=said):
                    duplicate(thing)


@pytest.mark.parametrize("fields", [asdict, astuple])
def test_fields_of_values_end(objects: list[Any], fields: Callable[[Any], Any]) -> None:
    """The whole catalog is among those of a plan: they took for ever, or raised errors."""
    for thing in objects:
        if is_dataclass(thing):
            fields(thing)


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
