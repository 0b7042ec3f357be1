"""What a program that configures logging gets to see."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from folders import qwen_tensors, two_shards, write_checkpoint, write_shard

import streamconv

CONFIG = {"model_type": "qwen3_moe", "num_experts": 3}


@pytest.fixture
def src(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "src", two_shards(qwen_tensors()), CONFIG)


def records(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno == level]


def test_the_steps_of_a_run(src: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """At INFO in their order; pieces at DEBUG only. All are of `streamconv`."""
    caplog.set_level(logging.INFO, "streamconv")
    streamconv.merge(src, tmp_path / "dst", verify=True)
    begins = [line.split()[0] for line in records(caplog, logging.INFO)]
    assert begins == [
        "planned",
        "writing",
        "wrote",
        "completed",
        "verifying",
        "moved",
        "<Verification",
    ]
    assert not records(caplog, logging.DEBUG)
    assert {record.name.partition(".")[0] for record in caplog.records} == {"streamconv"}
    caplog.clear()
    caplog.set_level(logging.DEBUG, "streamconv")
    streamconv.merge(src, tmp_path / "dst", overwrite=True)
    assert len(records(caplog, logging.DEBUG)) >= 1


def test_what_a_user_should_know(
    src: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Notes of a result, and differences, are warnings, in a line each."""
    write_shard(src / "left\nover.safetensors", {"x": ("U8", (1,), b"1")})
    streamconv.merge(src, tmp_path / "dst")
    notes = records(caplog, logging.WARNING)
    assert any("over.safetensors" in note for note in notes)
    assert all("\n" not in note for note in notes)
    caplog.clear()
    path = tmp_path / "dst/model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert not streamconv.verify(src, tmp_path / "dst").ok
    (line,) = records(caplog, logging.WARNING)
    assert "difference" in line


def test_nothing_is_shown_unasked(src: Path, tmp_path: Path) -> None:
    """A program that does not configure logging prints nothing, not even warnings."""
    write_shard(src / "leftover.safetensors", {"x": ("U8", (1,), b"1")})
    code = f"import streamconv; streamconv.merge({str(src)!r}, {str(tmp_path / 'dst')!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
