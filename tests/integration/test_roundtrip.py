"""Whatever the shapes, dtypes, shards and workers: what was merged comes back by splitting."""

import random
import tempfile
from pathlib import Path

import pytest
from folders import qwen_tensors, read_checkpoint, tensor, tree, write_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st

import streamconv
from streamconv.catalog.catalog import default_catalog
from streamconv.sinks import checkpoint_folder as sink
from streamconv.sources import safetensors_folder as local
from streamconv.system import file_ops as files

CATALOG = default_catalog()

DTYPES = ("BF16", "F16", "F32", "F64", "F8_E4M3", "F8_E8M0", "U8")


@settings(deadline=None, max_examples=60)
@given(
    layers=st.integers(1, 3),
    experts=st.integers(1, 13),
    hidden=st.integers(1, 40),
    intermediate=st.integers(1, 40),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(list(CATALOG.layouts)),
    shard_bytes=st.integers(1, 20_000),
    jobs=st.integers(1, 4),
    scatter=st.randoms(use_true_random=False),
    indexed=st.booleans(),
)
def test_split_of_merge_is_the_original(
    layers: int,
    experts: int,
    hidden: int,
    intermediate: int,
    dtype: str,
    layout: str,
    shard_bytes: int,
    jobs: int,
    scatter: random.Random,
    indexed: bool,
) -> None:
    """Names, dtypes, shapes and bytes, for experts scattered over shards in any way."""
    tensors = qwen_tensors(layers, experts, hidden, intermediate, dtype)
    tensors["model.scale"] = tensor("model.scale", "F32")
    tensors["model.empty"] = tensor("model.empty", "I64", 0, 3)
    shards: dict[str, dict[str, tuple[str, tuple[int, ...], bytes]]] = {}
    for name, content in tensors.items():
        shards.setdefault(f"{scatter.choice('abc')}.safetensors", {})[name] = content
    with tempfile.TemporaryDirectory() as place:
        source, merged, back = (Path(place) / name for name in ("source", "merged", "back"))
        config = {"model_type": "qwen3_moe", "num_experts": experts}
        write_checkpoint(source, shards, config, index=indexed)
        streamconv.merge(
            source, merged, to=layout, max_shard_size=shard_bytes, jobs=jobs, copy=True
        )
        streamconv.split(merged, back, jobs=jobs, copy=True)
        assert read_checkpoint(back) == tensors


def test_experts_that_could_not_be_counted_again(tmp_path: Path) -> None:
    """Shapes in which the number of experts is lost are not written where nothing else tells it."""
    tensors = qwen_tensors(1, 4, 6, 10)
    no_routers = {
        name: each for name, each in tensors.items() if not name.endswith(".mlp.gate.weight")
    }
    write_checkpoint(tmp_path / "src", {"a.safetensors": no_routers}, {"model_type": "qwen3_moe"})
    with pytest.raises(streamconv.PlanRefused, match=r"stacked-flat .* 4 times 10 as one number"):
        streamconv.plan(tmp_path / "src", to="stacked-flat")


def test_the_portable_path_makes_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the calls that only Linux has, a conversion comes to the same tree."""
    tensors = qwen_tensors(2, 11, 70, 33)
    write_checkpoint(tmp_path / "source", {"a.safetensors": tensors}, {"model_type": "mine"})

    def convert(name: str) -> None:
        streamconv.convert(
            tmp_path / "source", tmp_path / name, to="fused-transposed", max_shard_size=100_000
        )

    convert("linux")
    for module in (local, sink):
        monkeypatch.setattr(module, "system_files", files.Files)
    convert("else")
    assert tree(tmp_path / "linux") == tree(tmp_path / "else")
