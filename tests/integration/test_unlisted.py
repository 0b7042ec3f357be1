"""Tensors and files that the index leaves out: said by every verb, and taken along if asked."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from folders import (
    INDEX,
    SHARDS,
    Tensors,
    qwen_tensors,
    read_checkpoint,
    tensor,
    two_shards,
    write_checkpoint,
)
from folders import write_shard as write_file

import streamconv
from streamconv.cli import cli
from streamconv.errors import BadCheckpoint

CONFIG = {"model_type": "qwen3_moe", "num_experts": 3}
MTP: Tensors = {
    name: tensor(name, "BF16", 4, 4) for name in ("mtp.fc.weight", "mtp.layers.0.norm.weight")
}


@pytest.fixture
def src(tmp_path: Path) -> Path:
    """A checkpoint with a file that its index leaves out."""
    folder = write_checkpoint(tmp_path / "src", two_shards(qwen_tensors()), CONFIG)
    write_file(folder / "mtp.safetensors", MTP)
    return folder


def run(*arguments: object) -> Any:
    return CliRunner().invoke(cli, [str(each) for each in arguments], standalone_mode=False)


def in_one_line(text: str) -> str:
    return " ".join(text.split())


def test_every_verb_says_what_is_left_behind(src: Path, tmp_path: Path) -> None:
    """In the last lines of a run, too."""
    said = "not carried over: mtp.safetensors"
    shown = run("inspect", src)
    assert said in in_one_line(shown.output)
    listed = json.loads(run("inspect", src, "--json").output)["unlisted"]
    assert listed == [{"name": "mtp.safetensors", "tensors": [*MTP], "tensor_bytes": 64}]
    planned = run("merge", src, tmp_path / "dst", "--dry-run")
    assert said in in_one_line(planned.output)
    merged = run("merge", src, tmp_path / "dst", "--no-progress")
    assert said in merged.stdout
    assert "--add-unlisted" in merged.stdout
    verified = run("verify", src, tmp_path / "dst", "--no-progress")
    assert f"not checked: {said}" in verified.stdout
    assert not any(name in read_checkpoint(tmp_path / "dst") for name in MTP)


def test_the_json_of_a_run_says_it(src: Path, tmp_path: Path) -> None:
    merged = json.loads(run("merge", src, tmp_path / "dst", "--json", "--no-progress").stdout)
    assert any("mtp.safetensors" in note for note in merged["target"]["notes"])


def test_it_is_taken_along_if_asked(src: Path, tmp_path: Path) -> None:
    """And verified, although nobody says it again."""
    streamconv.merge(src, tmp_path / "dst", add_unlisted=True, verify=True)
    found = read_checkpoint(tmp_path / "dst")
    assert {name: found[name] for name in MTP} == MTP
    verified = streamconv.verify(src, tmp_path / "dst")
    assert verified.ok
    assert verified.unchecked == ()
    streamconv.split(tmp_path / "dst", tmp_path / "back")
    assert read_checkpoint(tmp_path / "back") == read_checkpoint(src)


def test_a_result_that_lacks_what_was_added_is_not_the_conversion(
    src: Path, tmp_path: Path
) -> None:
    streamconv.merge(src, tmp_path / "dst")
    found = streamconv.verify(src, tmp_path / "dst", add_unlisted=True)
    assert {difference.subject for difference in found.differences} == {*MTP}


def test_what_is_in_a_listed_file_too_is_not_taken_along(src: Path, tmp_path: Path) -> None:
    write_file(src / "mtp.safetensors", {**MTP, "model.norm.weight": tensor("n", "BF16", 4)})
    words = "cannot add mtp.safetensors: tensor model.norm.weight is in it and in model-00001"
    with pytest.raises(BadCheckpoint, match=words):
        streamconv.merge(src, tmp_path / "dst", add_unlisted=True)
    said = "the listed files have 1 of its tensors, too, such as model.norm.weight"
    assert said in in_one_line(run("inspect", src).output)


@pytest.mark.parametrize("raw", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"x" * 99])
def test_a_file_that_is_left_out_may_be_anything(raw: bytes, src: Path, tmp_path: Path) -> None:
    (src / "mtp.safetensors").write_bytes(raw)
    assert "no tensors can be found" in in_one_line(run("inspect", src).output)
    streamconv.merge(src, tmp_path / "dst")
    with pytest.raises(BadCheckpoint, match="it describes no tensors"):
        streamconv.merge(src, tmp_path / "other", add_unlisted=True)


def test_a_tensor_that_the_index_leaves_out_of_its_file(src: Path, tmp_path: Path) -> None:
    """It is read, as transformers reads it, and said."""
    fields = json.loads((src / INDEX).read_text())
    del fields["weight_map"]["model.norm.weight"]
    (src / INDEX).write_text(json.dumps(fields))
    plan = streamconv.plan(src)
    assert plan.checkpoint.unindexed == ("model.norm.weight",)
    said = "read although the index leaves them out of files that it lists: model.norm.weight (1)"
    assert said in in_one_line(run("inspect", src).output)
    streamconv.merge(src, tmp_path / "dst", verify=True)
    assert (
        read_checkpoint(tmp_path / "dst")["model.norm.weight"]
        == read_checkpoint(src)["model.norm.weight"]
    )


def test_two_files_that_contradict_each_other(src: Path, tmp_path: Path) -> None:
    """The index says which one has a tensor, and readers take both. `inspect` shows it."""
    extra: Tensors = {"model.norm.weight": tensor("another", "BF16", 4)}
    second = {name: t for name, t in qwen_tensors().items() if ".layers.1." in f".{name}"}
    write_file(src / SHARDS[1], {**second, **extra})
    words = "tensor model.norm.weight is in two files"
    with pytest.raises(BadCheckpoint, match=words):
        streamconv.merge(src, tmp_path / "dst")
    shown = run("inspect", src)
    assert shown.exception is None
    assert words in in_one_line(shown.output)
    assert json.loads(run("inspect", src, "--json").output)["contradictions"]


def test_native_weights_are_a_second_copy(src: Path, tmp_path: Path) -> None:
    """Next to an index and without one; what is in them is none of the model's."""
    write_file(src / "consolidated.safetensors", {"layers.0.w": tensor("x", "BF16", 4)})
    plan = streamconv.plan(src)
    assert [file.name for file in plan.checkpoint.unlisted] == ["mtp.safetensors"]
    note = "not carried over: consolidated.safetensors: the weights in Mistral's own format"
    assert note in in_one_line(run("inspect", src).output)
    (src / INDEX).unlink()
    assert "layers.0.w" not in streamconv.plan(src).checkpoint.tensors
