"""What torch.distributed.checkpoint writes is read here, however it is cut."""

import random
import subprocess
import sys
import tempfile
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import reference
import torch
import torch.distributed.checkpoint as dcp
from dcp_folders import write_dcp
from dcp_jobs import FAMILIES, modes, run_ranks
from folders import tree
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch.distributed.checkpoint.filesystem import SerializationFormat

import streamconv
from streamconv.errors import BadCheckpoint
from streamconv.formats.torch_archive import TORCH_DTYPES
from streamconv.sources.base import Read
from streamconv.sources.open import open_source

Tensors = dict[str, torch.Tensor]


def save(folder: Path, state: dict[str, object]) -> Path:
    """What a training run on one rank would leave."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(state, checkpoint_id=folder, no_dist=True)
    return folder


def of_bits(random_: random.Random, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    """A tensor of random bytes."""
    empty = torch.empty(shape, dtype=dtype)
    raw = random_.randbytes(max(empty.nbytes, 1))
    bits = torch.frombuffer(bytearray(raw), dtype=torch.uint8)[: empty.nbytes]
    return bits.view(dtype).reshape(shape)


@pytest.mark.parametrize("is_own", [False, True])
def test_opening_takes_the_memory_that_is_said_of_it(tmp_path: Path, is_own: bool) -> None:
    """At its peak, measured, whichever program wrote it."""
    names = [f"model.layers.{n}.mlp.experts.{e}.up_proj" for n in range(30) for e in range(100)]
    folder = save(tmp_path / "torch", {name: torch.zeros(4, 8) for name in names})
    if is_own:
        streamconv.convert(folder, tmp_path / "own", to="same", format="dcp", copy=True)
        folder = tmp_path / "own"
    open_source(str(folder)).close()  # which imports what it needs
    tracemalloc.start()
    try:
        opened = open_source(str(folder))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    opened.close()
    said = opened.checkpoint.metadata_bytes
    assert said / 1.5 < peak < said


# --- there and back ----------------------------------------------------------------------------


@pytest.mark.parametrize("preset", [None, "mindspeed"])
@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_merged_dcp_comes_back(tmp_path: Path, model_type: str, preset: str | None) -> None:
    """Every tensor, byte for byte; a DCP that streamconv wrote records its prefixes."""
    source = FAMILIES[model_type](tmp_path / "hub")
    streamconv.merge(source, tmp_path / "dcp", format="dcp", preset=preset, max_shard_size=50_000)
    streamconv.split(tmp_path / "dcp", tmp_path / "back")
    again = reference.read(tmp_path / "back")
    assert reference.same_bytes(again, reference.read(source)) == []


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_dcp_that_torch_saved_comes_back(tmp_path: Path, model_type: str) -> None:
    """After training: below `model`, with the prefix of the preset, nothing recorded."""
    source = FAMILIES[model_type](tmp_path / "hub")
    original = reference.read(source)
    merged = reference.merge_mindspeed(original, model_type)
    state = {f"model.{name}": tensor for name, tensor in merged.items()}
    trained = tmp_path / "trained"
    save(trained / "release", {"model": state, "checkpoint_version": 3.0, "args": {"lr": 0.1}})
    (trained / "latest_checkpointed_iteration.txt").write_text("release\n")
    (trained / "release" / "config.json").write_bytes((source / "config.json").read_bytes())
    streamconv.split(trained, tmp_path / "back", preset="mindspeed")
    assert reference.same_bytes(reference.read(tmp_path / "back"), original) == []
    assert set(modes(tmp_path / "back").values()) == {0o750, 0o640}


def test_from_dcp_to_dcp(tmp_path: Path) -> None:
    """In another layout, as from safetensors."""
    source = checkpoints.qwen3_moe(tmp_path / "hub")
    streamconv.merge(source, tmp_path / "fused", format="dcp")
    for layout in ("stacked", "per-expert", "fused-flat"):
        streamconv.convert(
            tmp_path / "fused", tmp_path / layout, to=layout, format="dcp", copy=True
        )
        streamconv.convert(
            source, tmp_path / f"{layout}-directly", to=layout, format="dcp", copy=True
        )
        made, wanted = tree(tmp_path / layout), tree(tmp_path / f"{layout}-directly")
        assert {k: v for k, v in made.items() if k != ".metadata"} == {
            k: v for k, v in wanted.items() if k != ".metadata"
        }


def test_ranks_leave_what_is_read(tmp_path: Path) -> None:
    """Two processes: sharded on each axis, evenly and not, replicated, or all under FSDP2."""
    source = checkpoints.qwen3_moe(tmp_path / "hub", experts=13, intermediate=21, layers=1)
    original = reference.read(source)
    save_file(reference.to_layout(original, "fused"), tmp_path / "fused.safetensors")
    run_ranks("save", tmp_path / "dcp", tmp_path / "fused.safetensors")
    for how in ("each-its-way", "fsdp"):
        assert len(list((tmp_path / "dcp" / how).glob("*.distcp"))) == 2
        streamconv.split(tmp_path / "dcp" / how, tmp_path / how)
        assert reference.same_bytes(reference.read(tmp_path / how), original) == []
    opened = open_source(str(tmp_path / "dcp" / "each-its-way"))
    opened.close()
    left = {other.name: other.skip_reason for other in opened.checkpoint.others}
    assert left["optimizer"].endswith("values of the training run, not of the model")
    assert left["iteration"] == "1 value of the training run, not of the model"


def test_there_and_back_loads_no_torch(tmp_path: Path) -> None:
    """Neither to write a DCP nor to read one."""
    checkpoints.qwen3_moe(tmp_path / "hub")
    code = """
import sys
import streamconv
streamconv.merge("hub", "dcp", format="dcp")
streamconv.split("dcp", "back")
assert "torch" not in sys.modules
assert "safetensors" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("files", [{"thread_count": 2}, {"single_file_per_rank": False}])
def test_what_torch_writes_as_safetensors(tmp_path: Path, files: dict[str, Any]) -> None:
    """With the same metadata: many tensors a file, and values before them in it."""
    source = checkpoints.qwen3_moe(tmp_path / "hub")
    original = reference.read(source)
    fused = reference.to_layout(original, "fused")
    writer = dcp.FileSystemWriter(
        tmp_path / "dcp", serialization_format=SerializationFormat.SAFETENSORS, **files
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = {"model": fused, "iteration": 7, "args": {"lr": 0.1}}
        dcp.save(state, storage_writer=writer, no_dist=True)
    streamconv.split(tmp_path / "dcp", tmp_path / "back")
    assert reference.same_bytes(reference.read(tmp_path / "back"), original) == []


# --- however it is cut -------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_stretch_of_any_chunks(data: st.DataObject) -> None:
    """Of tensors with up to four axes, each cut anywhere."""
    name = data.draw(st.sampled_from([d for d in TORCH_DTYPES if d != "BOOL"]))
    dtype = getattr(torch, TORCH_DTYPES[name][0].removeprefix("torch."))
    shape = tuple(data.draw(st.lists(st.integers(1, 7), max_size=4)))
    cuts = [data.draw(st.lists(st.integers(1, n), max_size=3)) for n in shape]
    tensor = of_bits(random.Random(0), dtype, shape)
    whole = bytes(tensor.reshape(-1).view(torch.uint8).tolist())
    with tempfile.TemporaryDirectory() as folder:
        write_dcp(Path(folder), {"t": (tensor, cuts)})
        source = open_source(folder)
        info = source.checkpoint.tensors["t"]
        assert (info.dtype, info.shape, info.nbytes) == (name, shape, len(whole))
        for _ in range(5):
            begin = data.draw(st.integers(0, len(whole)))
            end = data.draw(st.integers(begin, len(whole)))
            buffer = bytearray(end - begin)
            source.read([Read(info, begin, memoryview(buffer))])
            assert bytes(buffer) == whole[begin:end]
        source.close()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_long_and_short_runs(tmp_path: Path, axis: int) -> None:
    """Runs that are read directly, and more short ones than fit the buffer at once."""
    tensor = of_bits(random.Random(1), torch.int16, (3, 700, 500))
    cuts: list[list[int]] = [[], [], []]
    cuts[axis] = [tensor.shape[axis] // 3]
    write_dcp(tmp_path, {"t": (tensor, cuts)})
    source = open_source(str(tmp_path))
    info = source.checkpoint.tensors["t"]
    whole = tensor.numpy().tobytes()
    assert source.checkpoint.read_scratch_bytes == (0 if axis == 0 else 2**18)
    for begin, end in ((0, len(whole)), (333, len(whole) - 777), (1_000_001, 1_000_100)):
        buffer = bytearray(end - begin)
        source.read([Read(info, begin, memoryview(buffer))])
        assert bytes(buffer) == whole[begin:end]
    source.close()


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (2, 0)])
def test_scalars_and_nothing(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Tensors without axes, and tensors without elements."""
    tensor = of_bits(random.Random(2), torch.float32, shape)
    write_dcp(tmp_path, {"t": (tensor, [[] for _ in shape])})
    source = open_source(str(tmp_path))
    info = source.checkpoint.tensors["t"]
    buffer = bytearray(info.nbytes)
    source.read([Read(info, 0, memoryview(buffer))])
    assert (info.shape, bytes(buffer)) == (shape, tensor.numpy().tobytes())
    source.close()


# --- what is a model's -------------------------------------------------------------------------


@pytest.fixture
def fused(tmp_path: Path) -> Tensors:
    return reference.to_layout(reference.read(checkpoints.qwen3_moe(tmp_path / "hub")), "fused")


@pytest.mark.parametrize(
    ("wrap", "left"),
    [
        (lambda model: model, set()),
        (lambda model: {"model": model}, set()),
        (lambda model: {"model": model, "optim": {"m": torch.ones(3)}, "n": 3}, {"optim", "n"}),
        (lambda model: {**model, "optimizer": {"m": torch.ones(3)}, "n": 3}, {"optimizer", "n"}),
    ],
)
def test_the_model_is_taken_and_the_rest_is_named(
    tmp_path: Path, fused: Tensors, wrap: Callable[[Tensors], dict[str, object]], left: set[str]
) -> None:
    """With or without an entry of its own in the state dict."""
    save(tmp_path / "dcp", wrap(fused))
    source = open_source(str(tmp_path / "dcp"))
    source.close()
    assert source.checkpoint.tensors.keys() == fused.keys()
    assert {other.name for other in source.checkpoint.others} == left
    assert all(other.skip_reason for other in source.checkpoint.others)


def test_a_state_dict_that_was_not_flattened(tmp_path: Path, fused: Tensors) -> None:
    """Its metadata has no paths."""
    planner = dcp.DefaultSavePlanner(flatten_state_dict=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(fused, checkpoint_id=tmp_path / "dcp", planner=planner, no_dist=True)
    source = open_source(str(tmp_path / "dcp"))
    source.close()
    assert source.checkpoint.tensors.keys() == fused.keys()


@pytest.mark.parametrize(
    ("text", "folder"),
    [("release", "release"), ("7", "iter_0000007"), ("12345678\n", "iter_12345678")],
)
def test_the_tracker_is_followed(tmp_path: Path, fused: Tensors, text: str, folder: str) -> None:
    """From the parent folder, or the folder itself."""
    save(tmp_path / "run" / folder, {"model": fused})
    (tmp_path / "run" / "latest_checkpointed_iteration.txt").write_text(text)
    for path in (tmp_path / "run", tmp_path / "run" / folder):
        source = open_source(str(path))
        source.close()
        assert source.checkpoint.tensors.keys() == fused.keys()


@pytest.mark.parametrize("text", ["../elsewhere", "", "-1", "release/..", "1e3"])
def test_a_tracker_that_leads_nowhere(tmp_path: Path, fused: Tensors, text: str) -> None:
    """It is refused, whichever folders there are."""
    save(tmp_path / "elsewhere", {"model": fused})
    run = tmp_path / "run"
    run.mkdir()
    (run / "latest_checkpointed_iteration.txt").write_text(text)
    with pytest.raises(BadCheckpoint, match="neither `release` nor a number"):
        open_source(str(run))


def test_prefixes_are_undone(tmp_path: Path, fused: Tensors) -> None:
    """And a key without the prefix is refused."""
    state = {f"net.{name.removeprefix('model.')}": t for name, t in fused.items()}
    save(tmp_path / "dcp", {"model": state})
    done = streamconv.inspect(tmp_path / "dcp", hf_prefix="", dcp_prefix="net.")
    assert {f"model.{n}" for n in done.checkpoint.tensors} >= {n for n in fused if "layers" in n}
    with pytest.raises(BadCheckpoint, match="does not begin with"):
        streamconv.inspect(tmp_path / "dcp", dcp_prefix="net.layers.")


# --- what it takes -----------------------------------------------------------------------------


def test_memory_is_what_the_plan_says(tmp_path: Path) -> None:
    """To a DCP, and from one whose chunks are cut across their rows."""
    source = checkpoints.qwen3_moe(
        tmp_path / "hub", experts=24, hidden=512, intermediate=512, layers=1
    )
    merged = reference.to_layout(reference.read(source), "fused")
    cuts = {
        name: (tensor, [[], *([n // 3] for n in tensor.shape[1:])])
        for name, tensor in merged.items()
    }
    write_dcp(tmp_path / "cut", cuts)
    for location, options in (("hub", "format='dcp'"), ("cut", "to='per-expert'")):
        code = f"""
import streamconv
done = streamconv.merge({location!r}, "out-{location}", {options})
assert done.peak_memory <= done.plan.memory.peak, (done.peak_memory, done.plan.memory)
assert done.plan.memory.peak < 100_000_000, done.plan.memory
"""
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert reference.same_bytes(reference.read(tmp_path / "out-cut"), reference.read(source)) == []
