"""What is no checkpoint is named, with the way on."""

import os
from pathlib import Path

import pytest
from folders import qwen_tensors, two_shards, write_checkpoint

import streamconv
from streamconv.errors import BadCheckpoint, NoCheckpoint, UsageError
from streamconv.sources.no_checkpoint import hub_location
from streamconv.sources.open import open_source

CONFIG = {"model_type": "qwen3_moe", "num_experts": 3}


@pytest.mark.parametrize(
    ("location", "meant"),
    [
        ("https://huggingface.co/Qwen/Qwen3-30B-A3B", "hf://Qwen/Qwen3-30B-A3B"),
        ("https://huggingface.co/Qwen/Qwen3-30B-A3B/tree/main", "hf://Qwen/Qwen3-30B-A3B"),
        ("http://www.huggingface.co/Qwen/Q/tree/v1.0/", "hf://Qwen/Q@v1.0"),
        ("https://hf.co/Qwen/Q/blob/abc123/model.safetensors", "hf://Qwen/Q@abc123"),
        ("https://huggingface.co/Qwen/Q?library=x", "hf://Qwen/Q"),
        ("huggingface.co/Qwen/Q", "hf://Qwen/Q"),
        ("https://hf-mirror.com/Qwen/Q", "hf://Qwen/Q"),
        ("hf:Qwen/Q", "hf://Qwen/Q"),
        ("hf:/Qwen/Q@main", "hf://Qwen/Q"),
        ("HF://Qwen/Q@v2", "hf://Qwen/Q@v2"),
        ("hf://Qwen/Q", ""),
        ("Qwen/Q", ""),
        ("https://huggingface.co/datasets/x/y", ""),
        ("https://huggingface.co", ""),
        ("https://example.com/Qwen/Q", ""),
        ("s3://bucket/hf.co/a/b", ""),
    ],
)
def test_pages_of_the_hub(location: str, meant: str) -> None:
    assert hub_location(location) == meant
    if meant:
        with pytest.raises(UsageError) as error:
            open_source(location)
        assert error.value.hint == f"did you mean {meant}?"


def hint_of(location: str) -> str:
    """Return the hint for a location at which there is no checkpoint."""
    with pytest.raises(BadCheckpoint) as error:
        open_source(location)
    return error.value.hint


def test_a_path_that_does_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A similar one is named; else org/name is taken for what it looks like."""
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "Qwen3-30B", two_shards(qwen_tensors()), CONFIG)
    assert hint_of("qwen3_30b") == "did you mean Qwen3-30B?"
    assert hint_of(str(tmp_path / "Qwen3-30")) == f"did you mean {tmp_path}/Qwen3-30B?"
    assert hint_of("Qwen/Qwen3-30B-A3B") == (
        "did you mean hf://Qwen/Qwen3-30B-A3B, a repository of the hub?"
    )
    assert "hf://org/name" in hint_of("/nothing/of/it")
    with pytest.raises(NoCheckpoint):
        open_source("nothing")


FOLDERS: dict[str, tuple[list[str], list[str]]] = {
    "gguf": (["model-Q4_K_M.gguf"], ["GGUF", "llama.cpp"]),
    "bin": (["config.json", "pytorch_model-00001-of-00002.bin"], ["pickle", "save_pretrained"]),
    "pt": (["model.pt"], ["pickle"]),
    "adapter": (["adapter_config.json", "adapter_model.bin"], ["adapter", "merge_and_unload"]),
    "megatron": (["mp_rank_00/model_optim_rng.pt"], ["Megatron", "Megatron Bridge"]),
    "megatron ep": (["mp_rank_00_000/distrib_optim.pt"], ["Megatron", "torch_dist"]),
    "deepspeed": (["zero_to_fp32.py", "global_step7/x.pt"], ["DeepSpeed", "zero_to_fp32.py"]),
    "consolidated": (["consolidated.00.pth", "params.json"], ["consolidated"]),
    "flax": (["flax_model.msgpack"], ["Flax"]),
    "onnx": (["model.onnx"], ["ONNX"]),
    "unfinished": (["model.safetensors.incomplete"], ["not finished", "again"]),
    "weights left out": (["config.json", "tokenizer.json"], ["weights are not", "hf://org/name"]),
    "empty": ([], ["empty folder", "hf://org/name"]),
    "others": (["notes.txt"], ["no *.safetensors", "give the folder"]),
    "removed shards": (["streamconv.json", "config.json"], ["restore"]),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_without_safetensors(name: str, tmp_path: Path) -> None:
    files, words = FOLDERS[name]
    folder = tmp_path / "folder"
    folder.mkdir()
    for file in files:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text("{}")
    with pytest.raises(BadCheckpoint) as error:
        open_source(str(folder))
    said = f"{error.value.message} {error.value.hint}"
    assert [word for word in words if word not in said] == []
    assert str(folder) in said


def test_a_run_of_megatron_with_a_tracker(tmp_path: Path) -> None:
    """The tracker leads to a save that is no DCP."""
    (tmp_path / "iter_0000007" / "mp_rank_00").mkdir(parents=True)
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("7")
    assert "Megatron Bridge" in hint_of(str(tmp_path))


def test_a_folder_above_checkpoints(tmp_path: Path) -> None:
    """Those in it are named, also in the cache of the hub."""
    write_checkpoint(tmp_path / "all" / "b", two_shards(qwen_tensors()), CONFIG)
    assert hint_of(str(tmp_path / "all")) == f"did you mean {tmp_path}/all/b?"
    cached = tmp_path / "models--org--name" / "snapshots" / "abc"
    write_checkpoint(cached, two_shards(qwen_tensors()), CONFIG)
    assert hint_of(str(tmp_path / "models--org--name")) == f"did you mean {cached}?"


FILES: dict[str, str] = {
    "config.json": "give its folder, ",
    "model.safetensors.index.json": "give its folder, ",
    ".metadata": "give its folder, ",
    "__0_0.distcp": "give its folder, ",
    "model.gguf": "safetensors checkpoint that it was made from",
    "pytorch_model.bin": "save_pretrained",
    "weights.zip": "unpack it",
    "notes.txt": "give the folder",
}


@pytest.mark.parametrize("name", FILES)
def test_files(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(NoCheckpoint, match="it is a file") as error:
        open_source(str(tmp_path / name))
    assert FILES[name] in error.value.hint


def single(folder: Path) -> Path:
    """Write a checkpoint of one file that is not called as usual, with a config and more."""
    write_checkpoint(folder, {"all.safetensors": qwen_tensors()}, CONFIG, index=False)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "my-notes.txt").write_text("mine")
    return folder / "all.safetensors"


def test_a_single_file_is_a_checkpoint(tmp_path: Path) -> None:
    """With the config next to it, and nothing that belongs to somebody else."""
    file = single(tmp_path / "src")
    streamconv.merge(tmp_path / "src", tmp_path / "whole")
    streamconv.merge(file, tmp_path / "out", verify=True)
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "out" / "my-notes.txt").exists()
    assert streamconv.verify(file, tmp_path / "out").ok
    assert streamconv.inspect(file).model_type == "qwen3_moe"


def test_a_single_file_without_a_config(tmp_path: Path) -> None:
    """Nothing else of its folder is taken; the target may lie next to it."""
    write_checkpoint(tmp_path / "src", {"all.safetensors": qwen_tensors()}, index=False)
    (tmp_path / "src" / "config.json").unlink(missing_ok=True)
    (tmp_path / "src" / "README.md").write_text("mine")
    out = tmp_path / "src" / "out"
    streamconv.merge(tmp_path / "src" / "all.safetensors", out)
    assert "README.md" not in os.listdir(out)  # noqa: PTH208
    with pytest.raises(streamconv.OutputExists):
        streamconv.merge(tmp_path / "src" / "all.safetensors", tmp_path / "src", overwrite=True)


@pytest.mark.parametrize("index", [True, False])
def test_one_of_several_files_is_not_a_checkpoint(index: bool, tmp_path: Path) -> None:
    src = write_checkpoint(tmp_path / "src", two_shards(qwen_tensors()), CONFIG, index=index)
    shard = next(src.glob("*.safetensors"))
    with pytest.raises(BadCheckpoint, match="it is one of 2 files") as error:
        open_source(str(shard))
    assert error.value.hint == f"give its folder, {src}"
