"""Checkpoints without experts: cast, dequantized, resharded, and taken to and from a DCP."""

import json
import shutil
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import reference
import torch
from dcp_folders import stock, write_dcp
from folders import tree
from hub_server import Hub, taken_for_the_hub
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import streamconv
from streamconv.errors import PlanRefused

DENSE = {"qwen3": checkpoints.qwen3, "llama": checkpoints.llama}


@pytest.fixture(scope="module", params=DENSE)
def dense(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of transformers, in several shards."""
    return DENSE[request.param](tmp_path_factory.mktemp("dense") / request.param)


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.qwen3(tmp_path_factory.mktemp("qwen3") / "checkpoint")


def is_kept(name: str) -> bool:
    return "norm" in name


def test_cast(dense: Path, tmp_path: Path) -> None:
    """As torch casts each tensor, and loaded by transformers with these values."""
    result = streamconv.convert(dense, tmp_path / "out", dtype="fp32", verify=True)
    tensors = reference.read(dense)
    wanted = {n: t if is_kept(n) else t.float() for n, t in tensors.items()}
    assert reference.same_bytes(reference.read(tmp_path / "out"), wanted) == []
    held = checkpoints.in_memory(tmp_path / "out")
    assert reference.same_bytes({name: held[name] for name in wanted}, wanted) == []
    assert result.plan.target.asked == "same"


def test_dequantized(qwen3: Path, tmp_path: Path) -> None:
    """Qwen3-FP8, from blocks that are cut short."""
    wanted = checkpoints.quantized(qwen3, tmp_path / "fp8")
    streamconv.convert(tmp_path / "fp8", tmp_path / "out", dequantize="bf16", verify=True)
    found = reference.read(tmp_path / "out")
    assert found.keys() == wanted.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor.nan_to_num(7), wanted[name].nan_to_num(7)), name


def test_resharded(dense: Path, tmp_path: Path) -> None:
    """Into files of the size, and into one, with the same tensors."""
    for size, limit in (("30KB", 30_000), ("1GB", 10**9)):
        streamconv.convert(dense, tmp_path / size, max_shard_size=size, verify=True)
        paths = list((tmp_path / size).glob("*.safetensors"))
        assert (len(paths) > 1) == (size == "30KB")
        assert all(sum(t.nbytes for t in load_file(path).values()) <= limit for path in paths)
        assert reference.same_bytes(reference.read(tmp_path / size), reference.read(dense)) == []


def test_to_a_dcp_and_back(dense: Path, tmp_path: Path) -> None:
    """Read by torch; and back, with the files of the template, the bytes of the original."""
    streamconv.convert(dense, tmp_path / "dcp", format="dcp", verify=True)
    tensors = reference.read(dense)
    assert reference.same_bytes(stock(tmp_path / "dcp"), tensors) == []
    for number, verb in enumerate((streamconv.convert, streamconv.split, streamconv.merge)):
        out = tmp_path / f"back-{number}"
        verb(tmp_path / "dcp", out, template=dense, verify=True)
        assert reference.same_bytes(reference.read(out), tensors) == []
        assert (out / "config.json").read_bytes() == (dense / "config.json").read_bytes()
    held = checkpoints.in_memory(tmp_path / "back-0")
    assert reference.same_bytes({name: held[name] for name in tensors}, tensors) == []


def test_from_a_dcp_that_ranks_wrote(qwen3: Path, tmp_path: Path) -> None:
    """Cut on both axes by torch's own classes, and cast on the way."""
    tensors = reference.read(qwen3)
    cut = {name: (t, [[3], [5]][: t.ndim]) for name, t in tensors.items()}
    write_dcp(tmp_path / "dcp", cut)
    streamconv.convert(tmp_path / "dcp", tmp_path / "out", template=qwen3, dtype="fp16")
    wanted = {n: t if is_kept(n) else t.half() for n, t in tensors.items()}
    assert reference.same_bytes(reference.read(tmp_path / "out"), wanted) == []


def test_by_parts(qwen3: Path, tmp_path: Path) -> None:
    """The bytes of one process."""
    asked: dict[str, Any] = {"dtype": "fp32", "max_shard_size": "40KB"}
    streamconv.convert(qwen3, tmp_path / "one", **asked)
    for number in (2, 1, 3):
        streamconv.convert(qwen3, tmp_path / "out", part=f"{number}/3", **asked)
    streamconv.finish(tmp_path / "out", verify=True)
    assert tree(tmp_path / "out") == tree(tmp_path / "one")


def test_from_the_hub(qwen3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes of the folder, under the commit."""
    with taken_for_the_hub(Hub({"org/dense": qwen3}), tmp_path, monkeypatch):
        streamconv.convert("hf://org/dense", tmp_path / "out", dtype="fp32", verify=True)
    wanted = {n: t if is_kept(n) else t.float() for n, t in reference.read(qwen3).items()}
    assert reference.same_bytes(reference.read(tmp_path / "out"), wanted) == []


# --- layers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layers", "kept"), [("0:2", {0, 1}), ("1", {1}), ("2:9", {2})])
def test_some_layers(dense: Path, tmp_path: Path, layers: str, kept: set[int]) -> None:
    """Their tensors, and those outside of layers; other lists of modules are no layers."""
    streamconv.convert(dense, tmp_path / "out", layers=layers, verify=True)
    wanted = {
        name: tensor
        for name, tensor in reference.read(dense).items()
        if ".layers." not in name or int(name.split(".layers.")[1].split(".")[0]) in kept
    }
    assert reference.same_bytes(reference.read(tmp_path / "out"), wanted) == []


def with_tower(dense: Path, folder: Path, blocks: int) -> Path:
    """A checkpoint with a second list of modules, that has so many."""
    shutil.copytree(dense, folder)
    tensors = {f"visual.blocks.{k}.weight": torch.full((2,), k) for k in range(blocks)}
    index = json.loads((folder / checkpoints.INDEX).read_text())
    save_file(tensors, folder / "visual.safetensors")
    index["weight_map"] |= dict.fromkeys(tensors, "visual.safetensors")
    (folder / checkpoints.INDEX).write_text(json.dumps(index))
    return folder


def test_a_tower_keeps_all_its_layers(qwen3: Path, tmp_path: Path) -> None:
    """config.json counts the layers of the language model."""
    source = with_tower(qwen3, tmp_path / "source", 5)
    streamconv.convert(source, tmp_path / "out", layers="0:1", verify=True)
    names = reference.read(tmp_path / "out").keys()
    assert sum(name.startswith("visual.") for name in names) == 5
    assert not any("layers.1." in name for name in names)


def test_layers_that_could_be_either_are_refused(qwen3: Path, tmp_path: Path) -> None:
    """A tower of as many layers."""
    source = with_tower(qwen3, tmp_path / "source", 3)
    with pytest.raises(PlanRefused, match=r"^cannot take the layers 0:1: .*"):
        streamconv.convert(source, tmp_path / "out", layers="0:1")
    assert not (tmp_path / "out").exists()


# --- nothing to convert ------------------------------------------------------------------------


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("convert", {}),
    ("convert", {"to": "fused"}),
    ("convert", {"dtype": "bf16"}),
    ("convert", {"layers": "0:9"}),
    ("convert", {"sha256": True}),
    ("merge", {}),
    ("split", {}),
]


@pytest.mark.parametrize(("verb", "options"), REFUSED)
def test_what_is_already_so_is_refused(
    qwen3: Path, tmp_path: Path, verb: str, options: dict[str, Any]
) -> None:
    """With exit code 4, and copied if that is asked for."""
    convert = getattr(streamconv, verb)
    with pytest.raises(
        PlanRefused, match=r"^cannot .*: it is already .*: nothing to convert$"
    ) as e:
        convert(qwen3, tmp_path / "out", **options)
    assert e.value.exit_code == 4
    assert "--copy" in e.value.hint
    assert list(tmp_path.iterdir()) == []
    convert(qwen3, tmp_path / "out", **options, copy=True, verify=True)
    assert reference.same_bytes(reference.read(tmp_path / "out"), reference.read(qwen3)) == []


@pytest.mark.parametrize(
    ("first", "again", "says"),
    [
        ({"to": "transformers"}, {"to": "transformers"}, "in the form transformers"),
        ({"to": "transformers"}, {"to": "fused"}, "fused"),
        ({"to": "stacked"}, {"to": "stacked", "dtype": "bf16"}, "stacked, in bf16"),
        ({"to": "hub", "dtype": "fp32"}, {"dtype": "fp32"}, "in fp32"),
        ({"max_shard_size": "90KB"}, {"max_shard_size": "90KB"}, "in files of 90KB"),
        ({"format": "dcp"}, {"format": "dcp"}, "in dcp"),
    ],
)
def test_a_result_is_not_converted_again(
    tmp_path: Path, first: dict[str, Any], again: dict[str, Any], says: str
) -> None:
    """Nor merged; experts or not."""
    source = checkpoints.qwen3_moe(tmp_path / "source")
    streamconv.convert(source, tmp_path / "out", **first)
    with pytest.raises(PlanRefused, match=f"it is already {says}: nothing to convert"):
        streamconv.convert(tmp_path / "out", tmp_path / "again", **again)
    streamconv.convert(tmp_path / "out", tmp_path / "again", **again, copy=True)
    assert not (tmp_path / "again" / "none").exists()
    out, copy = (tree(tmp_path / name) for name in ("out", "again"))
    assert {n: raw for n, raw in out.items() if "streamconv" not in n and ".metadata" not in n} == {
        n: raw for n, raw in copy.items() if "streamconv" not in n and ".metadata" not in n
    }


def test_merging_and_splitting_again_is_refused(tmp_path: Path) -> None:
    """As `already ...`; a merged checkpoint can still be split, and a split one merged."""
    source = checkpoints.qwen3_moe(tmp_path / "source")
    streamconv.merge(source, tmp_path / "merged")
    with pytest.raises(PlanRefused, match="already in the form transformers: nothing to convert"):
        streamconv.merge(tmp_path / "merged", tmp_path / "again")
    with pytest.raises(PlanRefused, match="already per-expert: nothing to convert"):
        streamconv.split(source, tmp_path / "again")
    streamconv.split(tmp_path / "merged", tmp_path / "split")
    assert reference.same_bytes(reference.read(tmp_path / "split"), reference.read(source)) == []


# --- what keeps its layouts --------------------------------------------------------------------


def test_convert_without_a_target_keeps_layouts_and_names(tmp_path: Path) -> None:
    """Of Qwen3-Omni as MindSpeed has it, whose names are not those of the hub."""
    source = checkpoints.qwen3_omni_moe(tmp_path / "source")
    streamconv.merge(source, tmp_path / "merged")
    streamconv.convert(tmp_path / "merged", tmp_path / "out", dtype="fp32", verify=True)
    merged, out = (reference.read(tmp_path / name) for name in ("merged", "out"))
    assert merged.keys() == out.keys()
    assert {t.dtype for n, t in out.items() if ".experts." in n} == {torch.float32}
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["streamconv"])["form"] == "mindspeed"
    streamconv.convert(tmp_path / "out", tmp_path / "hub", to="hub", dtype="bf16", verify=True)
    hub, original = reference.read(tmp_path / "hub"), reference.read(source)
    assert hub.keys() == original.keys()
    for name, tensor in hub.items():  # a cast makes signaling NaNs quiet
        assert torch.equal(tensor.nan_to_num(7), original[name].nan_to_num(7)), name


def test_experts_that_no_layout_describes_are_cast(tmp_path: Path) -> None:
    """Nothing is rearranged, so nothing has to be known of them."""
    source = tmp_path / "source"
    source.mkdir()
    prefix = "model.layers.0.mlp.experts."
    tensors = {
        f"{prefix}{k}.{name}.weight": torch.randn(4, 6, dtype=torch.bfloat16)
        for k in range(3)
        for name in ("alpha", "beta")
    }
    save_file(tensors, source / "model.safetensors")
    (source / "config.json").write_text('{"model_type": "qwen3_moe"}')
    streamconv.convert(source, tmp_path / "out", dtype="fp32", verify=True)
    wanted = {name: tensor.float() for name, tensor in tensors.items()}
    assert reference.same_bytes(reference.read(tmp_path / "out"), wanted) == []
