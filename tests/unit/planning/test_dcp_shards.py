"""Every byte of a DCP that is planned, as torch reads it; and the keys that it cannot have."""

import io
import pickle
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from header_models import LIMITS, Tensors, checkpoint_of, experts

from streamconv.catalog.catalog import default_catalog
from streamconv.catalog.presets import Prefixes, find_preset
from streamconv.detection.detect import detect
from streamconv.errors import PlanRefused
from streamconv.planning.dcp_shards import Dcp
from streamconv.planning.make_plan import make_plan
from streamconv.planning.manifest import build_manifest
from streamconv.planning.plan import Plan
from streamconv.planning.shards import FramingBytes
from streamconv.planning.target import resolve_target

PREFIX = "model.layers.0.mlp."
TENSORS: Tensors = {
    "model.norm.weight": ("F32", (5,)),
    "model.a_flag": ("BOOL", (3,)),
    "model.a_counter": ("I64", ()),
    "model.nothing": ("BF16", (0, 7)),
    **experts(PREFIX, 3, 4, 6),
}


def planned(shards: Dcp, tensors: Tensors = TENSORS, max_shard_bytes: int = 10**6) -> Plan:
    checkpoint = checkpoint_of(tensors)
    found = detect(checkpoint, default_catalog())
    return make_plan(
        checkpoint,
        found,
        resolve_target(found, "fused", "asked"),
        max_shard_bytes=max_shard_bytes,
        limits=LIMITS,
        shard_format=lambda _: shards,
    )


def files_of(plan: Plan) -> dict[str, bytes]:
    """The files of the output if every tensor is zero."""
    files = {}
    for shard in plan.shards:
        raw = io.BytesIO()
        for part in plan.format.parts(shard):
            if isinstance(part, FramingBytes):
                raw.write(b"".join(plan.format.framing_bytes(shard, part.number)))
            else:
                raw.write(bytes(part.nbytes))
        files[shard.name] = raw.getvalue()
        assert len(files[shard.name]) == shard.nbytes
    closing = plan.format.closing_files(
        plan.shards, lambda _: build_manifest(plan, [[] for _ in plan.shards], {}, {})
    )
    return files | dict(closing)


def read_by_torch(files: Mapping[str, bytes], folder: str = "") -> dict[str, Any]:
    """Every chunk and other value, loaded by torch from where torch's metadata says it is."""
    metadata = pickle.loads(files[f"{folder}.metadata"])
    found: dict[str, Any] = {}
    for index, place in metadata.storage_data.items():
        raw = files[folder + place.relative_path][place.offset : place.offset + place.length]
        value = torch.load(io.BytesIO(raw), weights_only=True)
        entry = metadata.state_dict_metadata[index.fqn]
        if isinstance(value, torch.Tensor):
            chunk = entry.chunks[index.index]
            assert (chunk.offsets, chunk.sizes) == (index.offset, value.shape)
            assert entry.properties.dtype == value.dtype
        found.setdefault(index.fqn, []).append(value)
    return found


@pytest.mark.parametrize("max_shard_bytes", [1, 150, 10**6])
def test_torch_reads_every_chunk(max_shard_bytes: int) -> None:
    """An expert is a chunk, and every other tensor one chunk."""
    plan = planned(Dcp(Prefixes(), None, {}), max_shard_bytes=max_shard_bytes)
    found = read_by_torch(files_of(plan))
    shapes = {name: [tuple(v.shape) for v in values] for name, values in found.items()}
    assert shapes == {
        "model.norm.weight": [(5,)],
        "model.a_flag": [(3,)],
        "model.a_counter": [()],
        "model.nothing": [(0, 7)],
        f"{PREFIX}experts.gate_up_proj": [(1, 8, 6)] * 3,
        f"{PREFIX}experts.down_proj": [(1, 6, 4)] * 3,
    }
    assert [shard.name for shard in plan.shards] == [
        f"__0_{k}.distcp" for k in range(len(plan.shards))
    ]
    alone = [shard for shard in plan.shards if shard.data_bytes > max_shard_bytes]
    assert all(len([step for step in shard.steps if step.nbytes]) == 1 for shard in alone)


def test_a_preset_wraps_the_model_and_adds_values() -> None:
    preset = find_preset("mindspeed")
    files = files_of(planned(Dcp(Prefixes(), preset, {})))
    found = read_by_torch(files, f"{preset.folder}/")
    assert preset.extras.items() <= {key: value for key, (value, *_) in found.items()}.items()
    assert all(key in preset.extras or key.startswith(f"{preset.wrapper}.") for key in found)
    assert files[preset.tracker["name"]].decode() == preset.tracker["text"]


@pytest.mark.parametrize(
    ("name", "dtype", "prefixes", "fact"),
    [
        ("model.packed", "F4", Prefixes(), "is F4, which torch has no dtype for"),
        ("x.norm.weight", "F32", Prefixes("model.", "x."), "would both have the key"),
        ("x.other", "F32", Prefixes("model.", "x."), "come back from it as model.other"),
    ],
)
def test_what_a_dcp_cannot_hold(name: str, dtype: str, prefixes: Prefixes, fact: str) -> None:
    tensors: Tensors = {"model.norm.weight": ("F32", (4,)), name: (dtype, (4,))}
    with pytest.raises(PlanRefused, match=fact):
        planned(Dcp(prefixes, None, {}), {**tensors, **experts(PREFIX, 2, 4, 6)})
