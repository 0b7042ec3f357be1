"""The paths of tensors that torch lists are those that torch would make of their keys."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from dcp_folders import stock

from streamconv.errors import BadCheckpoint
from streamconv.formats.dcp_metadata_reader import read_metadata

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")

PATHS = {
    "model.layers.1.w": ("model", "layers.1.w"),
    "model.layers.2.w": ("model", "layers.2.w"),
    "step": ("step",),
}
KEY = "model.layers.1.w"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A DCP of torch, whose state dict is nested."""
    layers = {f"layers.{k}.w": torch.ones(2) * k for k in (1, 2)}
    dcp.save({"model": layers, "step": torch.ones(1)}, checkpoint_id=tmp_path, no_dist=True)
    assert pickle.loads((tmp_path / ".metadata").read_bytes()).planner_data == PATHS
    return tmp_path


def paths_of(folder: Path) -> dict[str, tuple[str, ...]]:
    raw = (folder / ".metadata").read_bytes()
    return {each.key: each.path for each in read_metadata(raw, "it").tensors}


def with_paths(folder: Path, change: Callable[[dict[Any, Any]], Any]) -> None:
    """Change `planner_data` as a framework may."""
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    metadata.planner_data = change(metadata.planner_data)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


@pytest.mark.parametrize(
    ("new", "words"),
    [
        (KEY + "x", f"it lists the path of {KEY} under {KEY}x"),
        (5, f"it lists the path of {KEY} under a key that is no text"),
    ],
)
def test_a_path_under_another_key_is_refused(folder: Path, new: object, words: str) -> None:
    """torch would put the tensor at the top of the state dict."""
    assert paths_of(folder) == PATHS
    assert set(stock(folder)) == {"model", "step"}
    with_paths(folder, lambda paths: {new if key == KEY else key: paths[key] for key in paths})
    assert set(stock(folder)) == {"model", "step", KEY}
    with pytest.raises(BadCheckpoint, match=words):
        paths_of(folder)


def test_a_path_under_the_key_of_another_tensor_is_refused(folder: Path) -> None:
    """The later of both would count, and no pickler writes a key twice."""
    with_paths(folder, lambda paths: {key.replace("1", "3"): paths[key] for key in paths})
    path = folder / ".metadata"
    path.write_bytes(path.read_bytes().replace(b"model.layers.3.w", b"model.layers.2.w"))
    assert set(stock(folder)) == {"model", "step", KEY}
    with pytest.raises(BadCheckpoint, match="a dictionary that has a key twice"):
        paths_of(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda _: None,
        lambda _: {},
        lambda _: {"version": 1, 2: ("a", "b"), "of": ("model", "layers.9.w")},
        lambda paths: {**paths, "extra": 1.5, "more": ("more",)},
        lambda paths: {key: path for key, path in paths.items() if key != "step"},
    ],
    ids=["none", "no paths", "a framework's own", "more", "some"],
)
def test_frameworks_list_what_they_like(folder: Path, change: Callable[[Any], Any]) -> None:
    """What is not listed has its key as its path, as torch reads it."""
    with_paths(folder, change)
    listed = change(PATHS) or {}
    assert paths_of(folder) == {key: listed.get(key, (key,)) for key in PATHS}
    assert ("model" in stock(folder)) == any(key in PATHS and "." in key for key in listed)


def test_a_long_text_that_is_repeated_takes_no_time(folder: Path) -> None:
    """A path of a thousand parts, each of them one text of a megabyte, is not joined."""
    with_paths(folder, lambda _: {f"x{k}": ("a" * 1_000_000,) * 1000 for k in range(50)})
    assert paths_of(folder) == {key: (key,) for key in PATHS}
