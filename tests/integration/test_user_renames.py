"""`--rename`: names are changed before anything is detected, recorded, and known to `verify`."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from dcp_folders import write_dcp
from folders import Tensors, qwen_tensors, read_checkpoint, two_shards, write_checkpoint
from safetensors.torch import load_file

import streamconv
from streamconv.cli import cli
from streamconv.errors import UsageError

CONFIG = {"model_type": "qwen3_moe", "num_experts": 3}


def renamed(old: str, new: str) -> Tensors:
    return {name.replace(old, new): tensor for name, tensor in qwen_tensors().items()}


def run(*arguments: object) -> Any:
    return CliRunner().invoke(cli, [str(each) for each in arguments], standalone_mode=False)


@pytest.fixture
def expected(tmp_path: Path) -> Any:
    """What merging makes of the checkpoint under its usual names."""
    hub = write_checkpoint(tmp_path / "hub", two_shards(qwen_tensors()), CONFIG)
    streamconv.merge(hub, tmp_path / "merged")
    return read_checkpoint(tmp_path / "merged")


@pytest.mark.parametrize(
    ("old", "new", "renames"),
    [
        ("model.", "module.model.", ["module.="]),
        ("model.", "model.model.", ["model.model.=model."]),
        ("model.", "", ["*=model.*"]),
        ("mlp.", "_orig_mod.mlp._fsdp_wrapped_module.", ["_orig_mod.=", "_fsdp_wrapped_module.="]),
        ("experts.", "mlp.experts.", ["mlp.mlp.=mlp."]),
        ("mlp.experts", "moe.inner.experts", ["layers.*.moe.inner.=layers.*.mlp."]),
    ],
)
def test_a_merge(old: str, new: str, renames: list[str], expected: Any, tmp_path: Path) -> None:
    """The same bytes as of the usual names; split and verify need no option more."""
    src = write_checkpoint(tmp_path / "src", two_shards(renamed(old, new)), CONFIG)
    streamconv.merge(src, tmp_path / "dst", rename=renames, verify=True)
    assert read_checkpoint(tmp_path / "dst") == expected
    assert streamconv.verify(src, tmp_path / "dst").ok
    assert not streamconv.verify(tmp_path / "hub", tmp_path / "dst", rename=["norm=Norm"]).ok
    manifest = json.loads((tmp_path / "dst" / "streamconv.json").read_text())
    assert manifest["reading"] == {"renames": renames}


def test_it_is_shown(tmp_path: Path) -> None:
    src = write_checkpoint(tmp_path / "src", two_shards(renamed("model.", "module.model.")), CONFIG)
    arguments = ("--rename", "module.=", "--rename", "norm.=norm_.")
    planned = " ".join(run("merge", src, tmp_path / "dst", "-n", *arguments).output.split())
    assert "renamed before anything was detected, in 24 names: module.=" in planned
    assert "in 3 names: norm.=norm_." in planned
    shown = json.loads(run("inspect", src, "--json", *arguments).output)
    assert shown["user_renames"] == [
        {"rename": "module.=", "names": 24},
        {"rename": "norm.=norm_.", "names": 3},
    ]
    assert shown["form"] == "hub"


def test_a_dcp(expected: Any, tmp_path: Path) -> None:
    plain = write_checkpoint(tmp_path / "plain", {"model.safetensors": renamed("mlp", "ffn")})
    whole = load_file(plain / "model.safetensors")
    write_dcp(tmp_path / "dcp", {name: (t, [[]] * t.ndim) for name, t in whole.items()})
    streamconv.merge(tmp_path / "dcp", tmp_path / "dst", rename=["ffn=mlp"], verify=True)
    assert read_checkpoint(tmp_path / "dst") == expected


def test_parts_and_finish_know_it(expected: Any, tmp_path: Path) -> None:
    src = write_checkpoint(tmp_path / "src", two_shards(renamed("mlp", "ffn")), CONFIG)
    for part in ("1/2", "2/2"):
        streamconv.merge(src, tmp_path / "dst", rename=["ffn=mlp"], part=part)
    streamconv.finish(tmp_path / "dst", verify=True)
    assert read_checkpoint(tmp_path / "dst") == expected


@pytest.mark.parametrize("rename", ["input_layernorm=mlp.gate", "nothing=", "model"])
def test_what_is_refused(rename: str, tmp_path: Path) -> None:
    src = write_checkpoint(tmp_path / "src", two_shards(qwen_tensors()), CONFIG)
    with pytest.raises(UsageError, match="rename"):
        streamconv.merge(src, tmp_path / "dst", rename=[rename])
    assert not (tmp_path / "dst").exists()
