"""A run that goes on notices other weights below the same headers, as training leaves them."""

import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from folders import qwen_tensors, tree, two_shards, write_checkpoint

import streamconv
from streamconv.cli import cli
from streamconv.errors import OutputExists
from streamconv.execution.events import Event, PieceWritten

WORDS = "another conversion: weights of the source, by the digest of a sample: .* there, .* here"
OPTIONS: dict[str, Any] = {"max_shard_size": 200}


@pytest.fixture
def src(tmp_path: Path) -> Path:
    config = {"model_type": "qwen3_moe", "num_experts": 3}
    return write_checkpoint(tmp_path / "src", two_shards(qwen_tensors()), config)


@pytest.fixture
def dst(tmp_path: Path) -> Path:
    return tmp_path / "dst"


def save_again(src: Path) -> None:
    """Change the weights; headers, sizes and times of the files stay."""
    for path in src.glob("*.safetensors"):
        raw, status = path.read_bytes(), path.stat()
        begin = 8 + int.from_bytes(raw[:8], "little")
        path.write_bytes(raw[:begin] + bytes(byte ^ 1 for byte in raw[begin:]))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def stop(src: Path, dst: Path) -> None:
    """Stop a run in the middle."""
    written: list[Event] = []

    def on_event(event: Event) -> None:
        written.extend([event] if isinstance(event, PieceWritten) else [])
        if len(written) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        streamconv.merge(src, dst, on_event=on_event, **OPTIONS)


def test_a_resumed_run(src: Path, dst: Path) -> None:
    """Is refused, and so is its dry run; the shards stay until the weights are there again."""
    stop(src, dst)
    partial = dst.with_name("dst.streamconv-partial")
    before = tree(partial)
    save_again(src)
    with pytest.raises(OutputExists, match=WORDS) as caught:
        streamconv.merge(src, dst, resume=True, **OPTIONS)
    assert "--overwrite" in caught.value.hint
    words = ["merge", str(src), str(dst), "--max-shard-size", "200B", "--resume", "--dry-run"]
    done = CliRunner().invoke(cli, words, standalone_mode=False)
    assert isinstance(done.exception, OutputExists)
    assert tree(partial) == before
    save_again(src)
    assert CliRunner().invoke(cli, words).exit_code == 0
    streamconv.merge(src, dst, resume=True, **OPTIONS)
    assert streamconv.verify(src, dst).ok


def test_another_part(src: Path, dst: Path) -> None:
    """Also one of another host, which has a copy of its own."""
    streamconv.merge(src, dst, part="1/2", **OPTIONS)
    save_again(src)
    with pytest.raises(OutputExists, match=WORDS):
        streamconv.merge(src, dst, part="2/2", **OPTIONS)


def test_finish(src: Path, dst: Path) -> None:
    """It copies the other files, which belong to the weights."""
    for part in ("1/2", "2/2"):
        streamconv.merge(src, dst, part=part, **OPTIONS)
    save_again(src)
    with pytest.raises(OutputExists, match=WORDS) as caught:
        streamconv.finish(dst)
    assert "undo what has changed" in caught.value.hint
    save_again(src)
    streamconv.finish(dst)
    assert streamconv.verify(src, dst).ok
