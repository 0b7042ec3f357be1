"""DCPs as frameworks write them: with their own classes in `.metadata`, and in wrappers.

They are written with torch. What a framework adds is a class of the same name, made here.
"""

import collections
import json
import pickle
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import make_dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from dcp_folders import write_metadata
from folders import Tensors, qwen_tensors, read_checkpoint, write_checkpoint
from safetensors.torch import load_file
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex
from torch.distributed.checkpoint.planner import SavePlan, WriteItem, WriteItemType

import streamconv
from streamconv.errors import BadCheckpoint

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")

MEGATRON = "megatron.core.dist_checkpointing.strategies.torch"


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    return write_checkpoint(
        tmp_path / "hub", {"model.safetensors": qwen_tensors()}, {"model_type": "qwen3_moe"}
    )


@pytest.fixture
def tensors(hub: Path) -> dict[str, torch.Tensor]:
    return load_file(hub / "model.safetensors")


@pytest.fixture
def megatron(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """Megatron's module, with its subclass of Metadata, its own plan and an enumeration."""
    module = types.ModuleType(MEGATRON)
    for name in ("megatron", "megatron.core", "megatron.core.dist_checkpointing"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, MEGATRON.rpartition(".")[0], types.ModuleType("strategies"))
    monkeypatch.setitem(sys.modules, MEGATRON, module)
    fields = [("mcore_data", Any, None), ("all_local_plans", Any, None)]
    plan = make_dataclass("MCoreSavePlan", fields[:1], bases=(SavePlan,), frozen=True)
    made: dict[str, Any] = {
        "MCoreMetadata": make_dataclass("MCoreMetadata", fields, bases=(Metadata,)),
        "MCoreSavePlan": plan,
        "Kind": Enum("Kind", {"SHARDED": 1}),
    }
    for name, kind in made.items():
        kind.__module__ = MEGATRON
        setattr(module, name, kind)
    yield module


def as_megatron(metadata: Metadata, module: types.ModuleType) -> Metadata:
    """Return what Megatron-Core would have pickled."""
    item = WriteItem(MetadataIndex("model.embed_tokens.weight"), WriteItemType.SHARD)
    mcore = {"x": {"nd_reformulated_orig_global_shape": (5, 4), (1, 2): module.Kind.SHARDED}}
    made = module.MCoreMetadata(
        metadata.state_dict_metadata,
        metadata.planner_data,
        metadata.storage_data,
        mcore_data=mcore,
        all_local_plans=[module.MCoreSavePlan([item], mcore_data=mcore), SavePlan([item])],
    )
    assert isinstance(made, Metadata)
    return made


def with_odd_values(metadata: Metadata) -> Metadata:
    paths = collections.OrderedDict(metadata.planner_data or {}, extra=np.float64(1.5))
    counts: Any = collections.defaultdict(list, a=[1])
    metadata.saved = {  # type: ignore[attr-defined]
        "at": datetime(2026, 1, 1, tzinfo=UTC),
        "counts": counts,
        "set": {1, 2},
        "frozen": frozenset("ab"),
        "bytes": b"\0\1",
        "buffer": bytearray(b"x"),
        "deque": collections.deque([1, 2], 3),
        "array": np.arange(3),
        "names": types.SimpleNamespace(a=1).__dict__,
        "device": torch.device("cpu"),
        2.5: complex(1, 2),
        None: True,
    }
    return replace_planner(metadata, paths)


def replace_planner(metadata: Metadata, paths: Any) -> Metadata:
    metadata.planner_data = paths
    return metadata


def with_new_fields(metadata: Metadata) -> Metadata:
    metadata.version = "2.15"
    metadata.new_field = {"x": 1}  # type: ignore[attr-defined]
    for info in metadata.storage_data.values():
        object.__setattr__(info, "checksum", 123)
    return metadata


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("change", [with_odd_values, with_new_fields, None])
def test_foreign_values_are_held_as_data(
    change: Callable[[Metadata], Metadata] | None,
    protocol: int,
    hub: Path,
    tensors: dict[str, torch.Tensor],
    megatron: types.ModuleType,
    tmp_path: Path,
) -> None:
    """They change nothing of what is read."""
    dcp.save(tensors, checkpoint_id=tmp_path / "dcp", no_dist=True)
    path = tmp_path / "dcp" / ".metadata"
    metadata = pickle.loads(path.read_bytes())
    changed = change(metadata) if change else as_megatron(metadata, megatron)
    path.write_bytes(pickle.dumps(changed, protocol))
    streamconv.split(tmp_path / "dcp", tmp_path / "out")
    assert read_checkpoint(tmp_path / "out") == read_checkpoint(hub)


def test_a_class_that_is_never_called(
    hub: Path, tensors: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although it could be imported: its module is not."""
    dcp.save(tensors, checkpoint_id=tmp_path / "dcp", no_dist=True)
    metadata = pickle.loads((tmp_path / "dcp" / ".metadata").read_bytes())
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    module = types.ModuleType("evil")
    module.Evil = type("Evil", (), {"__module__": "evil"})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "evil", module)
    metadata.own = module.Evil()
    write_metadata(tmp_path / "dcp", metadata)
    monkeypatch.delitem(sys.modules, "evil")
    monkeypatch.syspath_prepend(tmp_path)
    streamconv.split(tmp_path / "dcp", tmp_path / "out")
    assert "evil" not in sys.modules
    assert read_checkpoint(tmp_path / "out") == read_checkpoint(hub)


def test_an_unknown_class_of_tensors_is_refused(
    tensors: dict[str, torch.Tensor], megatron: types.ModuleType, tmp_path: Path
) -> None:
    """What a tensor is made of is never guessed."""
    dcp.save(tensors, checkpoint_id=tmp_path / "dcp", no_dist=True)
    metadata = pickle.loads((tmp_path / "dcp" / ".metadata").read_bytes())
    first = next(iter(metadata.state_dict_metadata))
    metadata.state_dict_metadata[first] = megatron.Kind.SHARDED
    write_metadata(tmp_path / "dcp", metadata)
    with pytest.raises(BadCheckpoint, match="not the metadata of a torch"):
        streamconv.split(tmp_path / "dcp", tmp_path / "out")


@pytest.mark.parametrize("wrapped", ["model", "app.model", "trainer.model"])
def test_a_state_dict_in_wrappers(
    wrapped: str, hub: Path, tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """The model, its optimizer and a step, in as many entries as there are words."""
    optimizer = {"state": {"model.norm.weight": {"exp_avg": torch.zeros(4)}}}
    state: dict[str, Any] = {"model": tensors, "optimizer": optimizer}
    for word in reversed(wrapped.split(".")[:-1]):
        state = {word: state}
    dcp.save(state, checkpoint_id=tmp_path / "dcp", no_dist=True)
    streamconv.split(tmp_path / "dcp", tmp_path / "out")
    assert read_checkpoint(tmp_path / "out") == read_checkpoint(hub)


def test_wrappers_in_the_middle_of_names(hub: Path, tmp_path: Path) -> None:
    """As FSDP, activation checkpointing and torch.compile leave them: one rename for each."""
    plain: Tensors = qwen_tensors()
    words = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
    wrapped = {}
    for name, tensor in load_file(hub / "model.safetensors").items():
        outer = name.replace("model.", f"{words[0]}model.{words[2]}", 1)
        wrapped[outer.replace("mlp.", f"{words[1]}mlp.{words[0]}")] = tensor
    assert len(wrapped) == len(plain)
    dcp.save({"app": {"model": wrapped}}, checkpoint_id=tmp_path / "dcp", no_dist=True)
    renames = [f"{word}=" for word in words]
    streamconv.split(tmp_path / "dcp", tmp_path / "out", rename=renames, verify=True)
    assert read_checkpoint(tmp_path / "out") == read_checkpoint(hub)
    manifest = json.loads((tmp_path / "out" / "streamconv.json").read_text())
    assert manifest["reading"]["renames"] == renames
