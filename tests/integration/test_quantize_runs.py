"""Quantizing other sources, by several processes and after a crash: the bytes of a plain run."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from dcp_folders import write_dcp
from folders import tree
from hub_server import Hub, taken_for_the_hub
from plain_layers import plain_tensors, write

import streamconv
from streamconv.system.linux_file_ops import LinuxFiles

SIZE = 50_000
"""Of output shards: some ten of them."""
ASKED: dict[str, Any] = {"to": "per-expert", "quantize": "mxfp4", "max_shard_size": SIZE}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("plain") / "source", plain_tensors())


@pytest.fixture(scope="module")
def wanted(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What one undisturbed process makes of the folder."""
    out = tmp_path_factory.mktemp("wanted") / "out"
    streamconv.convert(source, out, **ASKED)
    return tree(out)


def tensors_of(made: dict[str, object]) -> dict[str, object]:
    """The files that hold tensors, and config.json: a manifest has the name of the source."""
    return {name: made[name] for name in made if name.endswith(".safetensors")}


def test_by_parts(source: Path, wanted: dict[str, object], tmp_path: Path) -> None:
    for number in (2, 1, 1, 3):
        streamconv.convert(source, tmp_path / "out", part=f"{number}/3", **ASKED)
    streamconv.finish(tmp_path / "out", verify=True)
    assert tree(tmp_path / "out") == wanted


def test_from_the_hub(
    source: Path, wanted: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with taken_for_the_hub(Hub({"org/plain": source}), tmp_path, monkeypatch):
        streamconv.convert("hf://org/plain", tmp_path / "out", verify=True, **ASKED)
    made = tree(tmp_path / "out")
    assert tensors_of(made) == tensors_of(wanted)
    assert made["config.json"] == wanted["config.json"]


@pytest.mark.parametrize("at", [1, 4])
def test_killed_and_resumed(
    source: Path, wanted: dict[str, object], tmp_path: Path, at: int
) -> None:
    """The process dies as it makes a shard durable."""
    pid = os.fork()
    if pid == 0:
        done: list[int] = []
        sync = LinuxFiles.sync

        def dying(self: LinuxFiles, fd: int) -> None:
            done.append(fd)
            if len(done) == at:
                os.kill(os.getpid(), signal.SIGKILL)
            sync(self, fd)

        LinuxFiles.sync = dying  # type: ignore[method-assign]
        streamconv.convert(source, tmp_path / "out", jobs=1, **ASKED)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    streamconv.convert(source, tmp_path / "out", resume=True, **ASKED)
    assert tree(tmp_path / "out") == wanted


def test_a_dcp_without_a_config(source: Path, wanted: dict[str, object], tmp_path: Path) -> None:
    """The tensors are those of the folder; what no config.json can say, a note says."""
    write_dcp(tmp_path / "dcp", {name: (t, [[]] * t.ndim) for name, t in plain_tensors().items()})
    result = streamconv.convert(tmp_path / "dcp", tmp_path / "out", **ASKED)
    assert tensors_of(tree(tmp_path / "out")) == tensors_of(wanted)
    (note,) = result.plan.config.notes
    assert "no config.json is written" in note
    assert '"format": "mxfp4-pack-quantized"' in note
    streamconv.convert(tmp_path / "dcp", tmp_path / "whole", template=source, **ASKED)
    assert tree(tmp_path / "whole")["config.json"] == wanted["config.json"]
