"""Damage to a DCP is found wherever torch would read otherwise for it, or not at all."""

import json
import pickle
import random
import subprocess
import sys
from pathlib import Path

import fuzz_dcp
import pytest

import streamconv
from streamconv.errors import BadCheckpoint
from streamconv.formats.dcp_metadata_reader import read_metadata

OLD_METADATA = "no digest of them was recorded"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint, and the DCP of a preset that was made of it."""
    return fuzz_dcp.make(tmp_path_factory.mktemp("made"))


@pytest.mark.parametrize("options", [[], ["--by-torch"]], ids=["streamconv", "torch"])
def test_what_torch_reads_otherwise_does_not_pass(options: list[str]) -> None:
    """Random changes of `.metadata` and the files of tensors, each tried with torch."""
    script = [sys.executable, fuzz_dcp.__file__, "--changes", "150", "--seed", "7", *options]
    done = subprocess.run(script, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "'missed': 0" in done.stdout


def test_any_change_of_metadata_is_found(made: tuple[Path, Path]) -> None:
    """Every part of it, also what torch's reader does not need."""
    source, folder = made
    path = folder / ".metadata"
    raw = path.read_bytes()
    draw = random.Random(3)
    try:
        for place in [*range(0, len(raw), 397), *range(len(raw) - 60, len(raw), 3)]:
            new = bytearray(raw)
            new[place] ^= 1 << draw.randrange(8)
            path.write_bytes(new)
            assert not streamconv.verify(source, folder).ok, place
            assert not streamconv.verify(folder).ok, place
    finally:
        path.write_bytes(raw)
    assert streamconv.verify(source, folder).ok


def test_a_damaged_source_is_not_converted(made: tuple[Path, Path], tmp_path: Path) -> None:
    """torch would read other values of it: the entry of a file in an archive is made a folder."""
    _, folder = made
    path = folder / "__0_0.distcp"
    raw = path.read_bytes()
    new = bytearray(raw)
    new[raw.index(b"PK\1\2") + 38] |= 0x10
    path.write_bytes(new)
    try:
        with pytest.raises(BadCheckpoint, match="a folder"):
            streamconv.split(folder, tmp_path / "out")
    finally:
        path.write_bytes(raw)
    assert not (tmp_path / "out").exists()


def test_a_damaged_value_is_found(made: tuple[Path, Path]) -> None:
    """Of the training run: torch reads it with its own unpickler."""
    source, folder = made
    path = folder / "__0_0.distcp"
    raw = path.read_bytes()
    new = bytearray(raw)
    value = read_metadata((folder / ".metadata").read_bytes(), "it").others[0]
    new[raw.index(b"\x80\x02", value.offset) + 3] ^= 1
    path.write_bytes(new)
    try:
        assert not streamconv.verify(source, folder).ok
        assert not streamconv.verify(folder).ok
    finally:
        path.write_bytes(raw)


def test_what_was_written_without_a_digest_is_verified(made: tuple[Path, Path]) -> None:
    """By an earlier release: what is not checked is said."""
    source, folder = made
    path = folder / ".metadata"
    raw = path.read_bytes()
    metadata = pickle.loads(raw)
    del metadata.streamconv_digest
    own = json.loads(metadata.streamconv)
    del own["digest"]
    metadata.streamconv = json.dumps(own)
    path.write_bytes(pickle.dumps(metadata))
    try:
        for found in (streamconv.verify(source, folder), streamconv.verify(folder)):
            assert found.ok, found.differences
            assert any(OLD_METADATA in text for text in found.unchecked)
        own["digest"] = "xxh3-128"
        metadata.streamconv = json.dumps(own)
        path.write_bytes(pickle.dumps(metadata))
        assert not streamconv.verify(folder).ok
    finally:
        path.write_bytes(raw)
    for found in (streamconv.verify(source, folder), streamconv.verify(folder)):
        assert not any(OLD_METADATA in text for text in found.unchecked)
