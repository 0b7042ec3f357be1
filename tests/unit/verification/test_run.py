"""A verification of a checkpoint alone or with its source, and what its result has."""

import json
from pathlib import Path

import pytest
from folders import read_shard, write_checkpoint, write_shard
from fused_by_hand import CONFIG, source_tensors, write_pair

from streamconv.catalog.catalog import default_catalog
from streamconv.errors import BadCheckpoint, NoCheckpoint, UsageError
from streamconv.options import Reading
from streamconv.verification.options import VerifyOptions
from streamconv.verification.result import VerifyProgress, VerifyStarted
from streamconv.verification.run import run_verification


def options(**more: object) -> VerifyOptions:
    return VerifyOptions(jobs=1, catalog=default_catalog(), **more)  # type: ignore[arg-type]


def test_with_the_source(tmp_path: Path) -> None:
    """Paths as they were given, a duration, a peak, and events whose bytes are those compared."""
    src, dst = write_pair(tmp_path)
    events: list[object] = []
    found = run_verification(str(dst), str(src), options(on_event=events.append))
    assert (found.path, found.source, found.ok) == (str(dst), str(src), True)
    assert found.seconds > 0
    assert found.peak_memory > 10**6
    assert isinstance(events[0], VerifyStarted)
    compared = sum(each.nbytes for each in events if isinstance(each, VerifyProgress))
    assert compared == found.checked_bytes


def test_differences_come_in_natural_order(tmp_path: Path) -> None:
    """Layer 2 before layer 10."""
    tensors = {f"model.layers.{n}.norm.weight": ("U8", (2,), b"ab") for n in (10, 2, 1)}
    src = write_checkpoint(tmp_path / "src", {"model.safetensors": tensors}, {}, False)
    other = dict.fromkeys(tensors, ("U8", (2,), b"xx"))
    dst = write_checkpoint(tmp_path / "dst", {"model.safetensors": other}, {}, False)
    found = run_verification(str(dst), str(src), options())
    assert [each.subject.split(".")[2] for each in found.differences] == ["1", "2", "10"]
    assert found.difference_count == 3


def test_alone_without_a_manifest(tmp_path: Path) -> None:
    """Only the structure can be checked, and the result says so."""
    _, dst = write_pair(tmp_path)
    found = run_verification(str(dst), None, options())
    assert found.ok
    assert any("no streamconv.json" in text for text in found.unchecked)


def test_alone_with_a_lost_expert(tmp_path: Path) -> None:
    """An incomplete layer is a difference of the checkpoint itself."""
    tensors = source_tensors()
    del tensors["model.layers.1.mlp.experts.1.up_proj.weight"]
    dst = write_checkpoint(tmp_path / "dst", {"model.safetensors": tensors}, CONFIG, False)
    found = run_verification(str(dst), None, options())
    assert not found.ok
    assert "up_proj" in found.differences[0].detail


def test_alone_and_malformed(tmp_path: Path) -> None:
    """What cannot be read differs; what is not there is an error."""
    dst = tmp_path / "dst"
    dst.mkdir()
    (dst / "model.safetensors").write_bytes(b"no header at all")
    found = run_verification(str(dst), None, options())
    assert (found.ok, found.differences[0].subject) == (False, str(dst))
    with pytest.raises(NoCheckpoint):
        run_verification(str(tmp_path / "nothing"), None, options())


def test_a_source_that_is_malformed_is_an_error(tmp_path: Path) -> None:
    """It is no difference of the output."""
    _, dst = write_pair(tmp_path)
    with pytest.raises(BadCheckpoint):
        run_verification(str(dst), str(tmp_path / "nothing"), options())


def test_an_index_that_names_what_is_not_there(tmp_path: Path) -> None:
    """Found alone, too."""
    _, dst = write_pair(tmp_path)
    tensors, metadata = read_shard(dst / "model.safetensors")
    write_shard(dst / "model-00001-of-00001.safetensors", tensors, metadata)
    (dst / "model.safetensors").unlink()
    listed = dict.fromkeys(tensors, "model-00001-of-00001.safetensors")
    index = {"metadata": {"total_size": 1}, "weight_map": listed}
    (dst / "model.safetensors.index.json").write_text(json.dumps(index))
    found = run_verification(str(dst), None, options())
    assert [each.subject for each in found.differences] == ["model.safetensors.index.json"]


def test_a_template_needs_a_source(tmp_path: Path) -> None:
    """A checkpoint alone is compared with its manifest, where no template has a say."""
    reading: Reading = {"template": "hub"}
    with pytest.raises(UsageError, match="with a template"):
        run_verification(str(tmp_path), None, options(reading=reading))
