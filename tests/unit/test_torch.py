"""A state dict is filled by torch.distributed.checkpoint from a checkpoint in another layout.

What several ranks do is in `tests/integration/test_torch_ranks.py`.
"""

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import reference
import torch
import torch.distributed.checkpoint as dcp
from hub_server import Hub, taken_for_the_hub
from odd_tensors import WITH_MEMORY, WITHOUT_MEMORY, Make
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import (
    DefaultLoadPlanner,
    _EmptyStateDictLoadPlanner,
)
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

import streamconv
from streamconv.errors import BadCheckpoint, SourceChanged, StreamconvError, UsageError
from streamconv.torch import StorageReader

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")

Tensors = dict[str, torch.Tensor]
GATE_UP = "model.layers.1.mlp.experts.gate_up_proj"
HEAD, EMBEDDINGS = "lm_head.weight", "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.qwen3_moe(tmp_path_factory.mktemp("models") / "hub")


@pytest.fixture(scope="module")
def fused(folder: Path) -> Tensors:
    """As transformers has them in memory."""
    return checkpoints.in_memory(folder)


def zeros(tensors: Tensors) -> Tensors:
    return {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}


def load(state: dict[str, Any], *args: Any, **options: Any) -> StorageReader:
    reader = StorageReader(*args, **options)
    dcp.load(state, storage_reader=reader)
    return reader


def failure(state: dict[str, Any], *args: Any, **options: Any) -> Any:
    """The error that a load ends with, and that torch has wrapped."""
    with pytest.raises(CheckpointException) as caught:
        load(state, *args, **options)
    (error, _) = caught.value.failures[0]
    if error.hint:  # it is shown where torch shows the error
        assert str(caught.value).rstrip().endswith(error.hint)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # as other ranks get it
    return error


# --- what is read -------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", ["hub", "file", "stacked", "dcp", "mindspeed", "repository"])
def test_every_source(
    folder: Path, fused: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: str
) -> None:
    """In place, equal to what transformers has in memory; every byte is read once."""
    source: str | Path = folder
    options: dict[str, Any] = {}
    if stored == "file":
        source = tmp_path / "one"
        streamconv.convert(folder, source, to="fused-transposed", max_shard_size="1GB")
        assert len(list(source.glob("*.safetensors"))) == 1
    elif stored == "dcp":
        source = tmp_path / "dcp"
        streamconv.convert(folder, source, to="fused-flat", format="dcp")
    elif stored == "mindspeed":
        source, options = tmp_path / "trained", {"preset": "mindspeed"}
        streamconv.convert(folder, source, to="fused-flat", preset="mindspeed")
    elif stored == "stacked":
        source = tmp_path / "stacked"
        streamconv.convert(folder, source, to="stacked")
    state = zeros(fused)
    places = {name: tensor.data_ptr() for name, tensor in state.items()}
    with taken_for_the_hub(Hub({"org/moe": folder}), tmp_path, monkeypatch) as hub:
        if stored == "repository":
            source = "hf://org/moe"
        reader = load(state, source, to="transformers", **options)
        assert bool(hub.sent) == (stored == "repository")
    assert reference.same_bytes(state, fused) == []
    assert places == {name: tensor.data_ptr() for name, tensor in state.items()}
    assert reader.bytes_read == sum(tensor.nbytes for tensor in state.values())
    assert reader.missing_keys == ()


@pytest.mark.parametrize(("make", "kind"), WITHOUT_MEMORY.values(), ids=[*WITHOUT_MEMORY])
def test_what_has_no_memory_is_refused(folder: Path, fused: Tensors, make: Make, kind: str) -> None:
    """Before any tensor of the state dict is filled."""
    state = zeros(fused)
    state[HEAD] = make(state[HEAD])
    error = failure(state, folder, to="transformers")
    assert str(error).startswith(f"cannot fill {HEAD}: it is {kind}")
    assert not any(tensor.any() for name, tensor in state.items() if name != HEAD)


@pytest.mark.parametrize("make", WITH_MEMORY.values(), ids=[*WITH_MEMORY])
def test_what_has_memory_is_filled(folder: Path, fused: Tensors, make: Make) -> None:
    state = zeros(fused)
    state[HEAD] = make(state[HEAD])
    load(state, folder, to="transformers")
    assert torch.equal(state[HEAD].detach(), fused[HEAD].to(state[HEAD].dtype))


@pytest.mark.parametrize("location", ["no/such/folder", "", "\ud800", "a\0b", "x" * 10**5, 5, b"x"])
def test_a_reset_to_what_is_no_checkpoint(folder: Path, fused: Tensors, location: Any) -> None:
    """Is refused in words, and leaves the reader with the checkpoint that it had."""
    state = {HEAD: torch.zeros_like(fused[HEAD])}
    with StorageReader(folder, to="fused") as reader:
        with pytest.raises((StreamconvError, TypeError), match=r"^cannot |'checkpoint_id' must be"):
            reader.reset(location)
        assert reader.checkpoint_id == str(folder)
        dcp.load(state, storage_reader=reader)
    assert torch.equal(state[HEAD], fused[HEAD])


@pytest.mark.parametrize("layout", ["per-expert", "fused-transposed", "fused-flat", "stacked"])
def test_every_layout(folder: Path, layout: str) -> None:
    """Of the state dict, equal to formulas over whole arrays."""
    expected = reference.to_layout(reference.read(folder), layout)
    state = zeros(expected)
    load(state, folder, to=layout)
    assert reference.same_bytes(state, expected) == []


def test_experts_are_chunks(folder: Path, fused: Tensors) -> None:
    """The metadata has sizes and dtypes, and a chunk for each expert of a tensor of several."""
    with StorageReader(folder, to="fused") as reader:
        entries: Any = reader.read_metadata().state_dict_metadata
        assert {*entries} == {*fused}
        for name, tensor in fused.items():
            assert entries[name].size == tensor.shape
            assert entries[name].properties.dtype == tensor.dtype
        for name, rows in ((GATE_UP, 1), (HEAD, 64)):
            chunks = entries[name].chunks
            begins = range(0, fused[name].shape[0], rows)
            rest = fused[name].shape[1:]
            assert [tuple(c.offsets) for c in chunks] == [(b, *[0] * len(rest)) for b in begins]
            assert {tuple(chunk.sizes) for chunk in chunks} == {(rows, *rest)}
    with StorageReader(folder, to="fused-flat") as reader:
        entries = reader.read_metadata().state_dict_metadata
        chunks = entries[GATE_UP].chunks
        assert len(chunks) == fused[GATE_UP].shape[0]
        assert entries[GATE_UP].size == (12 * 48, 42)


def test_other_dtypes_and_strides(folder: Path, fused: Tensors) -> None:
    """Tensors of the state dict are cast as `copy_` casts, and need not be contiguous."""
    state: Tensors = {}
    for number, (name, tensor) in enumerate(fused.items()):
        turned = torch.zeros(*reversed(tensor.shape), dtype=tensor.dtype).permute(
            *reversed(range(tensor.dim()))
        )
        state[name] = turned if number % 2 else torch.zeros(tensor.shape, dtype=torch.float64)
    load(state, folder, to="fused")
    expected = {name: tensor.to(state[name].dtype) for name, tensor in fused.items()}
    assert {tensor.dtype for tensor in state.values()} == {torch.bfloat16, torch.float64}
    assert all(torch.equal(state[k].nan_to_num(), expected[k].nan_to_num()) for k in state)


def test_scalars_empty_tensors_and_packed_floats(tmp_path: Path) -> None:
    """As safetensors reads them; `to` is left out."""
    tensors = {
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 4),
        "flags": torch.tensor([True, False]),
        "packed": torch.arange(32, dtype=torch.uint8).reshape(4, 8).view(torch.float4_e2m1fn_x2),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    state = zeros({k: v for k, v in tensors.items() if k != "packed"})
    state["packed"] = torch.zeros(4, 8, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    load(state, tmp_path)
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        assert state[name].shape == tensor.shape
        found, wanted = (t.reshape(-1).view(torch.uint8) for t in (state[name], tensor))
        assert torch.equal(found, wanted), name


def test_options_of_opening(folder: Path, tmp_path: Path) -> None:
    """Scales are applied, names are changed, layers are left out."""
    plain = checkpoints.quantized(folder, tmp_path / "fp8")
    with streamconv.open(tmp_path / "fp8", "fused", dequantize="bf16") as model:
        state = {name: torch.zeros(t.shape, dtype=t.dtype) for name, t in model.items()}
    load(state, tmp_path / "fp8", to="fused", dequantize="bf16")
    expected = reference.to_layout(plain, "fused")[GATE_UP].to(torch.bfloat16)
    assert torch.equal(state[GATE_UP].nan_to_num(), expected.nan_to_num())
    router = "layers.1.mlp.gate.weight"
    part = {router: torch.zeros(12, 48, dtype=torch.bfloat16)}
    load(part, folder, rename=["model.*=*"], layers="1")
    wanted = {router: reference.read(folder)[f"model.{router}"]}
    assert reference.same_bytes(part, wanted) == []


def test_the_planner_of_a_user(folder: Path, fused: Tensors) -> None:
    """One that hands out its own tensors gets each back, and one that makes the state dict."""
    taken: dict[str, list[tuple[int, ...]]] = {}

    class Own(DefaultLoadPlanner):
        def resolve_tensor(self, read_item: Any) -> torch.Tensor:
            return torch.empty_like(super().resolve_tensor(read_item))

        def commit_tensor(self, read_item: Any, tensor: torch.Tensor) -> None:
            super().resolve_tensor(read_item).copy_(tensor)
            taken.setdefault(read_item.dest_index.fqn, []).append(tuple(read_item.lengths))

    state = zeros(fused)
    dcp.load(state, storage_reader=StorageReader(folder, to="fused"), planner=Own())
    assert reference.same_bytes(state, fused) == []
    assert taken[GATE_UP] == [(1, *fused[GATE_UP].shape[1:])] * fused[GATE_UP].shape[0]
    made: Tensors = {}
    _load_state_dict(
        made,
        storage_reader=StorageReader(folder, to="fused"),
        planner=_EmptyStateDictLoadPlanner(),
        no_dist=True,
    )
    assert reference.same_bytes(made, fused) == []


def test_a_module_with_buffers(tmp_path: Path) -> None:
    """Those that are in its state dict are read like parameters."""
    module = torch.nn.BatchNorm1d(5)
    module.running_mean = torch.arange(5.0)
    save_file(module.state_dict(), tmp_path / "model.safetensors")
    again = torch.nn.BatchNorm1d(5)
    load(again.state_dict(), tmp_path)
    assert torch.equal(again.running_mean, torch.arange(5.0))
    assert torch.equal(again.weight, module.weight)


# --- keys ---------------------------------------------------------------------------------------


def nested(fused: Tensors) -> dict[str, Any]:
    """The state of a training run."""
    moments = {name: {"exp_avg": torch.ones(2)} for name in fused}
    return {
        "model": zeros(fused),
        "optimizer": {"state": moments, "param_groups": [{"lr": 0.5}]},
        "step": 7,
    }


def test_keys_without_a_tensor_are_listed(folder: Path, fused: Tensors) -> None:
    """All of them, the first ones by name; nothing is read."""
    state = nested(fused)
    error = failure(state, folder, to="fused", prefix="model.")
    assert isinstance(error, BadCheckpoint)
    count = len(fused) + 2
    assert error.message.startswith(f"cannot load {count} keys of the state dict: ")
    assert f"optimizer.state.{EMBEDDINGS}.exp_avg" in error.message
    assert error.message.endswith(f" and {count - 20} more")
    assert "partial=True" in error.hint
    assert not any(tensor.any() for tensor in state["model"].values())
    few = {**zeros(fused), "step": 7}
    error = failure(few, folder, to="fused")
    assert error.message.startswith("cannot load 1 key of the state dict: ")
    assert error.message.endswith("has no tensor called step")


def test_keys_without_a_tensor_are_left(folder: Path, fused: Tensors) -> None:
    """With `partial`, which lists them."""
    state = nested(fused)
    reader = load(state, folder, to="fused", prefix="model.", partial=True)
    assert reference.same_bytes(state["model"], fused) == []
    assert len(reader.missing_keys) == len(fused) + 2
    assert (state["step"], state["optimizer"]["param_groups"]) == (7, [{"lr": 0.5}])
    assert torch.equal(state["optimizer"]["state"][HEAD]["exp_avg"], torch.ones(2))


@pytest.mark.parametrize("partial", [True, False])
def test_a_prefix_that_is_missing_or_wrong(folder: Path, fused: Tensors, partial: bool) -> None:
    """Nothing at all would be loaded: the error names the prefix."""
    for state, prefix, right in (
        (nested(fused), "", "model."),
        (zeros(fused), "module.", ""),
        ({f"module.{name}": t for name, t in zeros(fused).items()}, "", "module."),
    ):
        error = failure(state, folder, to="fused", prefix=prefix, partial=partial)
        assert isinstance(error, BadCheckpoint)
        assert error.hint.endswith(f"prefix={right!r}")


def test_layouts_that_are_not_those_of_the_state_dict(folder: Path, fused: Tensors) -> None:
    """Other names are listed, another shape is an error with both."""
    error = failure(zeros(fused), folder)
    assert GATE_UP in error.message
    assert "`to`" in error.hint
    error = failure(zeros(fused), folder, to="fused-transposed")
    assert isinstance(error, BadCheckpoint)
    assert "[12, 21, 48]" in error.message
    assert "[12, 48, 21]" in error.message
    assert "layers.0.mlp.experts.down_proj" in error.message


@pytest.mark.parametrize("tied", [True, False, None])
def test_a_tied_head(folder: Path, tmp_path: Path, tied: bool | None) -> None:
    """If the checkpoint leaves it out, it is the embeddings, which are read once."""
    tensors = reference.read(folder)
    weight = tensors[EMBEDDINGS]
    stored = tmp_path / "tied"
    stored.mkdir()
    save_file({EMBEDDINGS: weight}, stored / "model.safetensors")
    said = "" if tied is None else f', "tie_word_embeddings": {str(tied).lower()}'
    (stored / "config.json").write_text(f'{{"model_type": "qwen3_moe"{said}}}')
    same = torch.zeros_like(weight)
    for state in (
        {EMBEDDINGS: same, HEAD: same},
        {EMBEDDINGS: torch.zeros_like(weight), HEAD: torch.zeros_like(weight)},
        {EMBEDDINGS: torch.zeros_like(weight), HEAD: torch.zeros(weight.shape)},
    ):
        if not tied:
            assert HEAD in failure(state, stored).message
            continue
        reader = load(state, stored)
        assert reference.same_bytes({EMBEDDINGS: state[EMBEDDINGS]}, {EMBEDDINGS: weight}) == []
        assert torch.equal(state[HEAD].nan_to_num(), weight.to(state[HEAD].dtype).nan_to_num())
        once = state[HEAD].dtype == weight.dtype
        assert reader.bytes_read == weight.nbytes * (1 if once else 2)
        with pytest.raises(CheckpointException, match=r"\[64, 47\]"):
            load({HEAD: torch.zeros(64, 47)}, stored)


# --- opening and closing ------------------------------------------------------------------------


def open_files(folder: Path) -> list[str]:
    links = map(os.path.realpath, Path("/proc/self/fd").iterdir())
    return [link for link in links if link.startswith(str(folder.resolve()))]


def test_it_is_closed_after_reading_and_opened_again(folder: Path, fused: Tensors) -> None:
    """Or after an error; `checkpoint_id` names another checkpoint."""
    reader = StorageReader(folder, to="fused")
    for _ in range(2):
        state = zeros(fused)
        dcp.load(state, storage_reader=reader)
        assert reference.same_bytes(state, fused) == []
        assert open_files(folder) == []
    dcp.load(zeros(fused), storage_reader=reader, checkpoint_id=folder)
    assert reader.checkpoint_id == folder
    assert open_files(folder) == []
    failure({"nothing": torch.zeros(1)}, folder)
    assert open_files(folder) == []
    with pytest.raises(BadCheckpoint, match="nowhere"):
        dcp.load(state, storage_reader=reader, checkpoint_id="nowhere")


@pytest.mark.parametrize("late", [False, True])
def test_a_source_that_changes(folder: Path, tmp_path: Path, late: bool) -> None:
    """Before it is read, or after, as long as the load has not ended."""
    source = shutil.copytree(folder, tmp_path / "hub")
    with streamconv.open(source) as model:
        name, _ = model[HEAD].place

    def change() -> None:
        content = (source / name).read_bytes()
        (source / name).write_bytes(content[:-1] + (b"" if not late else b"\0"))

    class Late(DefaultLoadPlanner):
        def commit_tensor(self, read_item: Any, tensor: torch.Tensor) -> None:
            assert open_files(source)
            change()

    reader = StorageReader(source, to="fused")
    if not late:
        change()
    state = {HEAD: torch.zeros(64, 48, dtype=torch.bfloat16)}
    with pytest.raises(CheckpointException) as caught:
        dcp.load(state, storage_reader=reader, planner=Late() if late else DefaultLoadPlanner())
    assert isinstance(caught.value.failures[0][0], SourceChanged)
    assert open_files(source) == []


def test_what_makes_no_sense_is_refused_at_once(folder: Path, tmp_path: Path) -> None:
    """Where the reader is made, as `streamconv.open` refuses it, and not by torch."""
    with pytest.raises(UsageError, match="fusd"):
        StorageReader(folder, to="fusd")
    with pytest.raises(UsageError, match="jobs"):
        StorageReader(folder, jobs=0)
    with pytest.raises(BadCheckpoint, match="nothing"):
        StorageReader(tmp_path / "nothing")
    with pytest.raises(TypeError, match=r"'dequantise'; did you mean 'dequantize'\?"):
        StorageReader(folder, dequantise="bf16")  # type: ignore[call-arg]
    assert "dequantize: `bf16`" in (StorageReader.__init__.__doc__ or "")


def test_without_torch() -> None:
    """The module says which command installs it."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'torch' else find(name, *a)\n"
        "import streamconv.torch"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-2:] == [
        "streamconv.errors.PlanRefused: cannot import streamconv.torch: torch is not installed",
        "run `pip install 'streamconv[torch]'`",
    ]
