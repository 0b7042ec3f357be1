"""Which files hold the tensors, by the index or by their names."""

import pytest

from streamconv.errors import BadCheckpoint
from streamconv.sources.shard_index import find_index, read_index, shard_names

INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize(
    ("names", "index"),
    [
        ([], None),
        (["model.safetensors", "config.json"], None),
        (["other.safetensors.index.json"], "other.safetensors.index.json"),
        (["a.safetensors.index.json", INDEX], INDEX),
    ],
)
def test_the_index_is_found(names: list[str], index: str | None) -> None:
    assert find_index(names, "folder") == index


def test_two_indexes() -> None:
    names = ["b.safetensors.index.json", "a.safetensors.index.json"]
    with pytest.raises(BadCheckpoint, match=r"has several indexes: a\.safetensors\.index\.json, b"):
        find_index(names, "folder")


def test_an_index_is_read_by_file() -> None:
    weight_map = {"x": "1.safetensors", "y": "a/2.safetensors", "z": "1.safetensors"}
    assert read_index({"weight_map": weight_map}, INDEX) == {
        "1.safetensors": {"x": "x", "z": "z"},
        "a/2.safetensors": {"y": "y"},
    }


@pytest.mark.parametrize("weight_map", [None, {}, [], "x", 7])
def test_an_index_without_a_map(weight_map: object) -> None:
    with pytest.raises(BadCheckpoint, match="not an object that maps tensors to files"):
        read_index({"weight_map": weight_map}, INDEX)


@pytest.mark.parametrize("file", ["../1.safetensors", "1.bin", "", None, 7, ["1.safetensors"]])
def test_an_index_that_names_no_shard(file: object) -> None:
    with pytest.raises(BadCheckpoint, match="not the name of a safetensors file below"):
        read_index({"weight_map": {"x": file}}, INDEX)


def test_the_index_decides() -> None:
    """Also for subfolders, and against other shards at the top level."""
    index = {"b.safetensors": {"x": "x"}, "a/1.safetensors": {"y": "y"}}
    names = ["b.safetensors", "c.safetensors"]
    assert shard_names(index, names, "folder") == ["a/1.safetensors", "b.safetensors"]


def test_without_an_index_all_shards_count() -> None:
    names = ["b.safetensors", "a.safetensors", "config.json"]
    assert shard_names(None, names, "folder") == ["a.safetensors", "b.safetensors"]


@pytest.mark.parametrize(
    ("index", "names", "fact"),
    [
        (None, [], r"no \*\.safetensors in it, and no index$"),
        (None, ["pytorch_model.bin"], r"no index; pytorch_model\.bin is a pickle of torch"),
        (None, ["README.md", "m-Q4_K_M.gguf"], r"no index; m-Q4_K_M\.gguf is GGUF"),
        (
            None,
            ["m-00001-of-00003.safetensors", "m-00003-of-00003.safetensors"],
            "number 2 is missing: m-00001-of-00003.safetensors is one of 3 files, of which 2 are",
        ),
        (
            {"a.safetensors": {"x": "x"}},
            ["a.safetensors", "model.safetensors"],
            "readers differ in which of them is the model",
        ),
        (None, ["A.safetensors", "a.safetensors"], "one file on systems that ignore case"),
    ],
    ids=["none", "pickle", "gguf", "incomplete", "ambiguous", "case"],
)
def test_files_that_are_no_checkpoint(
    index: dict[str, dict[str, str]] | None, names: list[str], fact: str
) -> None:
    with pytest.raises(BadCheckpoint, match=fact):
        shard_names(index, names, "folder")
