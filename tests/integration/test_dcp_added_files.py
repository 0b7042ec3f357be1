"""A file that was added to a DCP is named; a training run's own files are no damage."""

import warnings
from pathlib import Path
from typing import Any

import fuzz_dcp
import pytest

import streamconv

NONE = "files without tensors: a DCP has none"
ADDED = [
    *("__9_0.distcp", ".metadata.tmp", "evil.py", "config.json", "common.pt"),
    *("iter_0000010/.metadata", "model.safetensors", "model.safetensors.index.json"),
    *("streamconv.json", "streamconv-journal-1.jsonl", ".gitignore"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint, and the folder with the metadata of a preset's DCP that was made of it."""
    return fuzz_dcp.make(tmp_path_factory.mktemp("made"))


def put(folder: Path, name: str) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"{}")
    return path


@pytest.mark.parametrize("name", ADDED)
@pytest.mark.parametrize("options", [{"format": "dcp"}, {"preset": "mindspeed"}], ids=str)
def test_a_file_added_to_a_dcp_is_named(
    made: tuple[Path, Path], tmp_path: Path, options: dict[str, Any], name: str
) -> None:
    """Whatever its name; and nothing says that there is none."""
    dst = tmp_path / "dst"
    streamconv.convert(made[0], dst, to="fused", **options)
    (metadata,) = dst.rglob(".metadata")
    added = put(metadata.parent, name).relative_to(metadata.parent).as_posix()
    for found in (streamconv.verify(made[0], dst), streamconv.verify(dst)):
        assert added in {difference.subject for difference in found.differences}
        assert NONE not in found.unchecked


def test_a_training_run_that_goes_on(made: tuple[Path, Path], tmp_path: Path) -> None:
    """Its later saves are next to the folder of the conversion, which stays as it was written."""
    dst = tmp_path / "run"
    streamconv.convert(made[0], dst, to="fused", preset="mindspeed")
    for name in ("iter_0000010/.metadata", "iter_0000010/__0_0.distcp", "progress.txt"):
        put(dst, name)
    for path in (dst, dst / "release"):
        assert streamconv.verify(path).ok
        found = streamconv.verify(made[0], path)
        assert found.ok
        assert NONE in found.unchecked


def test_a_dcp_of_another_program(made: tuple[Path, Path], tmp_path: Path) -> None:
    """No manifest says what belongs to it, so nothing next to it is a difference."""
    source, folder = made
    with warnings.catch_warnings(action="ignore"):
        saved = fuzz_dcp.saved_by_torch(folder, tmp_path / "saved")
    assert NONE in streamconv.verify(source, saved, target_layout="fused").unchecked
    for name in [*ADDED, "metadata.json"]:
        if name != "config.json":  # which would be read, and has nothing in it
            put(saved, name)
    for found in (
        streamconv.verify(source, saved, target_layout="fused"),
        streamconv.verify(saved, source, source_layout="fused"),
    ):
        assert found.ok, found.differences
        assert "files without tensors: those next to a DCP may be another program's" in (
            found.unchecked
        )
        assert NONE not in found.unchecked
    assert streamconv.verify(saved).ok
