"""A source that has no config.json is quantized, and verified: nothing is said of what is made."""

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch.distributed.checkpoint as dcp
from plain_layers import plain_tensors, write

import streamconv


def hub(folder: Path) -> Path:
    """Safetensors without a config."""
    made = write(folder, plain_tensors())
    (made / "config.json").unlink()
    return made


def empty(folder: Path) -> Path:
    """A config without members."""
    made = write(folder, plain_tensors())
    (made / "config.json").write_text("{}")
    return made


def torch_dcp(folder: Path) -> Path:
    """What a training run on one rank would leave."""
    with warnings.catch_warnings(action="ignore"):
        dcp.save(plain_tensors(), checkpoint_id=folder, no_dist=True)
    return folder


def own_dcp(folder: Path) -> Path:
    """A DCP of streamconv, which records that there was none."""
    made = hub(folder.with_name("hub"))
    streamconv.convert(made, folder, to="same", format="dcp", copy=True)
    return folder


@pytest.mark.parametrize("file_format", ["safetensors", "dcp"])
@pytest.mark.parametrize("kind", ["fp8-channel", "mxfp4"])
@pytest.mark.parametrize("made", [hub, empty, torch_dcp, own_dcp])
def test_a_source_without_config(
    made: Callable[[Path], Path], kind: str, file_format: str, tmp_path: Path
) -> None:
    source = made(tmp_path / "source")
    streamconv.convert(
        source,
        tmp_path / "out",
        to="per-expert",
        quantize=kind,
        format=file_format,
        verify=True,
    )
    found = streamconv.verify(source, tmp_path / "out")
    assert found.ok, found.differences
