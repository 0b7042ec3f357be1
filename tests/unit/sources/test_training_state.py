"""Which save of a training run is read, and which of its tensors are the model's."""

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from streamconv.catalog.presets import Prefixes
from streamconv.checkpoint.layout_record import Record
from streamconv.errors import BadCheckpoint
from streamconv.formats.dcp_metadata import Metadata, StoredBytes
from streamconv.formats.dcp_tensors import Chunk, StoredTensor
from streamconv.sources.training_state import (
    find_dcp,
    model_tensors,
    read_streamconv_metadata,
    skipped_entries,
)

TRACKER = "latest_checkpointed_iteration.txt"


def save_at(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / ".metadata").touch()
    return folder


def tensor(*path: str) -> StoredTensor:
    """A tensor of 8 bytes at a path of the state dict."""
    return StoredTensor(
        ".".join(path), path, "F32", (2,), (Chunk((0,), (2,), "__0_0.distcp", 0, 8),)
    )


def metadata(tensors: Iterable[tuple[str, ...]], values: Iterable[str] = ()) -> Metadata:
    others = tuple(StoredBytes(name, (name,), "__0_0.distcp", 0, 5) for name in values)
    return Metadata(tuple(tensor(*path) for path in tensors), others, None, False)


# --- the folder --------------------------------------------------------------------------------


def test_the_folder_of_a_save_is_found(tmp_path: Path) -> None:
    save = save_at(tmp_path / "save")
    (save / TRACKER).write_text("not looked at")
    assert find_dcp(str(save)) == save


@pytest.mark.parametrize(
    ("text", "folder"),
    [
        ("release\n", "release"),
        ("7", "iter_0000007"),
        (" 0000007 ", "iter_0000007"),
        ("123456789", "iter_123456789"),
    ],
)
def test_the_tracker_names_the_last_save(tmp_path: Path, text: str, folder: str) -> None:
    save_at(tmp_path / "iter_0000001")
    save = save_at(tmp_path / folder)
    (tmp_path / TRACKER).write_text(text)
    assert find_dcp(str(tmp_path)) == save


@pytest.mark.parametrize("text", ["", "../save", "-7", "1e3", "RELEASE", "\u0661", "7 8"])
def test_a_tracker_that_names_no_save(tmp_path: Path, text: str) -> None:
    save_at(tmp_path / "save")
    (tmp_path / TRACKER).write_text(text)
    with pytest.raises(BadCheckpoint, match="neither `release` nor a number"):
        find_dcp(str(tmp_path))


def test_a_tracker_that_names_a_save_that_is_gone(tmp_path: Path) -> None:
    save_at(tmp_path / "iter_0000006")
    (tmp_path / TRACKER).write_text("7")
    with pytest.raises(BadCheckpoint, match=r"says 7, and iter_0000007 holds no \.metadata"):
        find_dcp(str(tmp_path))


def test_a_save_that_was_not_finished(tmp_path: Path) -> None:
    (tmp_path / "__0_0.distcp").touch()
    with pytest.raises(BadCheckpoint, match=r"files of a DCP and no \.metadata"):
        find_dcp(str(tmp_path))


def test_no_dcp(tmp_path: Path) -> None:
    """A folder without one, a file, and nothing."""
    (tmp_path / "model.safetensors").touch()
    for path in (tmp_path, tmp_path / "model.safetensors", tmp_path / "missing"):
        assert find_dcp(str(path)) is None


# --- the state dict ----------------------------------------------------------------------------


def names(found: Metadata, prefixes: Prefixes | None = None) -> list[str]:
    return [name for name, _ in model_tensors(found, prefixes or Prefixes())]


def test_a_model_with_an_entry_of_its_own() -> None:
    """Everything else is skipped, whatever it is called."""
    found = metadata(
        [("model", "a.weight"), ("model", "b", "weight"), ("optimizer", "m"), ("ema", "m")],
        ["iteration"],
    )
    assert names(found) == ["a.weight", "b.weight"]
    assert {(o.name, o.size, o.skip_reason) for o in skipped_entries(found)} == {
        ("optimizer", 8, "1 value of the training run, not of the model"),
        ("ema", 8, "1 value of the training run, not of the model"),
        ("iteration", 5, "1 value of the training run, not of the model"),
    }


def test_a_model_next_to_the_state_of_the_run() -> None:
    """A flat name is a tensor of the model, also if it begins like an entry of the run."""
    found = metadata(
        [("a.weight",), ("model.b",), ("args",), ("lora", "c"), ("optim", "m"), ("optim", "v")]
    )
    assert names(found) == ["a.weight", "model.b", "args", "lora.c"]
    (skipped,) = skipped_entries(found)
    assert (skipped.name, skipped.size) == ("optim", 16)
    assert skipped.skip_reason == "2 values of the training run, not of the model"


def test_a_state_dict_without_a_model() -> None:
    with pytest.raises(BadCheckpoint, match="no tensor in it belongs to a model"):
        names(metadata([("optimizer", "m")], ["iteration"]))


def test_prefixes_are_undone() -> None:
    found = metadata([("model", "net.a"), ("model", "net.b")])
    assert names(found, Prefixes("model.", "net.")) == ["model.a", "model.b"]


def test_a_key_without_the_prefix() -> None:
    found = metadata([("model", "net.a"), ("model", "b")])
    with pytest.raises(BadCheckpoint, match=r"key b does not begin with net\.") as caught:
        names(found, Prefixes("", "net."))
    assert caught.value.hint.startswith("set --dcp-prefix")


def test_two_keys_of_one_name() -> None:
    found = metadata([("model", "a.b"), ("model", "a", "b")])
    with pytest.raises(BadCheckpoint, match=r"the keys a\.b and a\.b both become a\.b"):
        names(found)


@pytest.mark.parametrize("own", ["{}", "[]", '{"keys": 1}', '{"keys": {"hf_prefix": ""}}'])
def test_a_malformed_record(own: str) -> None:
    with pytest.raises(BadCheckpoint, match="not as streamconv writes them"):
        read_streamconv_metadata(Metadata((), (), own, False))


def test_a_record_is_read() -> None:
    """One of another writer has none."""
    record = Record("hub", None, {})
    fields = {
        "keys": {"hf_prefix": "model.", "dcp_prefix": "net."},
        "config": {"model_type": "qwen3_moe"},
        "manifest": {"record": record.to_json(), "fingerprint": "0"},
    }
    assert read_streamconv_metadata(Metadata((), (), None, False)).record is None
    found = read_streamconv_metadata(Metadata((), (), json.dumps(fields), False))
    assert found.record == record
    assert found.prefixes == Prefixes("model.", "net.")
    assert found.config == {"model_type": "qwen3_moe"}
    assert found.manifest["fingerprint"] == "0"
