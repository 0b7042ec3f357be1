"""What is read from the hub's local cache is never removed, and nothing is written into it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from folders import qwen_tensors, tree, two_shards, write_checkpoint
from hub_server import COMMIT, Hub, taken_for_the_hub
from huggingface_hub import constants

import streamconv
from streamconv.errors import BadCheckpoint, OutputExists

LOCATION = "hf://org/name"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the hub has."""
    shards = two_shards(qwen_tensors())
    return write_checkpoint(tmp_path / "hub", shards, {"model_type": "qwen3_moe"})


@pytest.fixture(params=["online", "offline"])
def hub(
    request: pytest.FixtureRequest, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Hub]:
    with taken_for_the_hub(Hub({"org/name": folder}), tmp_path, monkeypatch) as hub:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", request.param == "offline")
        yield hub


def cached(cache: Path, folder: Path, *, links: bool) -> Path:
    """Put a repository into the cache, as links to blobs or as files. Return its folder."""
    repo = cache / "models--org--name"
    snapshot = repo / "snapshots" / COMMIT
    snapshot.parent.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    shutil.copytree(folder, repo / "blobs" if links else snapshot)
    if links:
        snapshot.mkdir()
        for blob in (repo / "blobs").iterdir():
            (snapshot / blob.name).symlink_to(f"../../blobs/{blob.name}")
    return repo


PLACES = ("", "refs", "blobs", "snapshots", f"snapshots/{COMMIT}")


def refused(target: Path, dcp: Path | None = None) -> None:
    """Merge into a target that is in the way, or split a DCP into it; nothing changes."""
    before = tree(target.parent)
    # offline, links out of the repository are not even followed
    match = "overlap|outside of the checkpoint"
    with pytest.raises((OutputExists, BadCheckpoint), match=match):
        if dcp is None:
            streamconv.merge(LOCATION, target, overwrite=True)
        else:
            streamconv.split(dcp, target, template=LOCATION, overwrite=True)
    assert tree(target.parent) == before


@pytest.mark.parametrize("links", [False, True])
@pytest.mark.parametrize("place", PLACES)
def test_a_target_in_the_cached_repository(
    hub: Hub, tmp_path: Path, folder: Path, place: str, links: bool
) -> None:
    """The repository, what is in it, and below that."""
    repo = cached(tmp_path / "cache", folder, links=links)
    refused(repo / place)
    refused(repo / place / "merged")


@pytest.mark.parametrize("name", ["cache", "cache.streamconv-partial", "cache.streamconv-replaced"])
def test_the_cache_in_what_is_removed(
    hub: Hub, tmp_path: Path, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(tmp_path / name, folder, links=True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / name))
    refused(tmp_path / "cache")


@pytest.mark.parametrize("place", ["blobs", "refs", "snapshots", f"snapshots/{COMMIT}"])
def test_a_part_of_the_cache_is_a_link_to_the_target(
    hub: Hub, tmp_path: Path, folder: Path, place: str
) -> None:
    repo = cached(tmp_path / "cache", folder, links=place == "blobs")
    (repo / place).rename(tmp_path / "out")
    (repo / place).symlink_to(tmp_path / "out")
    refused(tmp_path / "out")


def test_a_cached_template(hub: Hub, tmp_path: Path, folder: Path) -> None:
    """With a snapshot that is a link to the target."""
    streamconv.merge(folder, tmp_path / "dcp", format="dcp")
    snapshot = cached(tmp_path / "cache", folder, links=False) / "snapshots" / COMMIT
    snapshot.rename(tmp_path / "out")
    snapshot.symlink_to(tmp_path / "out")
    refused(tmp_path / "out", tmp_path / "dcp")
