"""What `streamconv verify` prints, and its exit code."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
from click.testing import CliRunner
from damage import LAYER, NORM, bit_flipped, tensors_swapped
from folders import (
    qwen_tensors,
    tensor,
    write_checkpoint,
)

import streamconv
from streamconv.cli import cli
from streamconv.errors import NoCheckpoint, VerifyFailed


def attempt(*words: object) -> Any:
    return CliRunner().invoke(cli, ["verify", *map(str, words)], standalone_mode=False)


SCHEMA = json.loads((Path(streamconv.__file__).parent / "report" / "schema.json").read_text())


def test_what_is_printed(converted: Callable[[str], Path], source: Path, tmp_path: Path) -> None:
    dst = Path(shutil.copytree(converted("fused"), tmp_path / "dst"))
    result = attempt(source, dst)
    assert result.exception is None
    assert f"{dst}: the conversion of {source}" in result.stdout
    result = attempt(source, dst, "--sample", "5%", "--json")
    fields = json.loads(result.stdout)
    jsonschema.validate(fields, SCHEMA)
    assert fields["ok"]
    bit_flipped(f"{LAYER}.gate_up_proj")(dst)
    tensors_swapped(f"{LAYER}.down_proj", "model.layers.0.mlp.experts.down_proj")(dst)
    result = attempt(source, dst)
    assert isinstance(result.exception, VerifyFailed)
    assert f"{LAYER}.down_proj, expert 3 differs from" in result.stdout
    assert "... 5 more" in result.stdout
    assert len(result.stdout.splitlines()) == 21
    assert "25 differences" in result.exception.message
    result = attempt(source, dst, "--json")
    assert isinstance(result.exception, VerifyFailed)
    fields = json.loads(result.stdout)
    jsonschema.validate(fields, SCHEMA)
    assert fields["difference_count"] == 25
    assert attempt(source, dst, "--quiet").stdout == ""
    assert isinstance(attempt(source, dst, "--sample", "x").exception, Exception)


def test_names_of_a_checkpoint_are_printed_escaped(tmp_path: Path) -> None:
    src, dst = tmp_path / "src", tmp_path / "dst"
    evil = "a\nb\x1b[31m"
    tensors = {**qwen_tensors(), evil: tensor(evil, "BF16", 3)}
    write_checkpoint(src, {"model.safetensors": tensors}, {"model_type": "qwen3_moe"}, index=False)
    streamconv.merge(src, dst)
    bit_flipped(evil)(dst)
    (dst / "x\x1b[31m\n").write_text("1")
    for words in ((src, dst), (dst,)):
        result = attempt(*words, "--no-progress")
        assert isinstance(result.exception, VerifyFailed)
        assert "a\\nb\\x1b[31m" in result.stdout
        assert "x\\x1b[31m\\n" in result.stdout
        assert all(line.isprintable() for line in result.stdout.splitlines())
        assert result.exception.message.isprintable()


def test_a_process_ends_with_5(
    converted: Callable[[str], Path], source: Path, tmp_path: Path
) -> None:
    dst = Path(shutil.copytree(converted("fused"), tmp_path / "dst"))
    bit_flipped(NORM)(dst)
    done = subprocess.run(
        [sys.executable, "-m", "streamconv", "verify", str(source), str(dst)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 5
    assert NORM in done.stdout
    assert f"\nstreamconv: {dst} is not the conversion of" in done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_to_verify(tmp_path: Path) -> None:
    """A path that was misspelt is no verdict on a checkpoint; damage is one."""
    src = write_checkpoint(tmp_path / "src", {"model.safetensors": qwen_tensors()})
    streamconv.merge(src, tmp_path / "merged")
    for words in ((src, tmp_path / "mergd"), (tmp_path / "mergd",), (tmp_path / "mergd", src)):
        done = attempt(*words)
        assert isinstance(done.exception, NoCheckpoint)
        assert done.exception.exit_code == 3
        assert done.exception.hint == f"did you mean {tmp_path / 'merged'}?"
    (tmp_path / "empty").mkdir()
    assert isinstance(attempt(src, tmp_path / "empty").exception, NoCheckpoint)
    (tmp_path / "merged" / "model.safetensors").unlink()
    for words in ((src, tmp_path / "merged"), (tmp_path / "merged",)):
        assert isinstance(attempt(*words).exception, VerifyFailed)
