"""Which tensors of a state dict are the model's, and what streamconv recorded in it."""

import json
from collections.abc import Iterable

import pytest

from streamconv.catalog.presets import Prefixes
from streamconv.checkpoint.layout_record import Record
from streamconv.errors import BadCheckpoint
from streamconv.formats.dcp_metadata_reader import Metadata
from streamconv.formats.dcp_tensors import Chunk, StoredBytes, StoredTensor
from streamconv.sources.training_state import (
    model_tensors,
    read_streamconv_metadata,
    skipped_entries,
)


def tensor(*path: str) -> StoredTensor:
    """A tensor of 8 bytes at a path of the state dict."""
    return StoredTensor(
        ".".join(path), path, "F32", (2,), (Chunk((0,), (2,), "__0_0.distcp", 0, 8),)
    )


def metadata(tensors: Iterable[tuple[str, ...]], values: Iterable[str] = ()) -> Metadata:
    others = tuple(StoredBytes(name, (name,), "__0_0.distcp", 0, 5) for name in values)
    return Metadata(tuple(tensor(*path) for path in tensors), others, None, False)


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


def test_all_of_it_in_one_entry_more() -> None:
    """As torch's tutorial saves it; what is next to the model is skipped."""
    found = metadata(
        [("app", "model", "net.a.weight"), ("app", "optimizer", "m"), ("app", "ema", "m")],
        ["step"],
    )
    assert names(found) == ["net.a.weight"]
    assert {(o.name, o.size) for o in skipped_entries(found)} == {
        ("app.optimizer", 8),
        ("app.ema", 8),
        ("step", 5),
    }
    assert names(metadata([("app", "model", "a.b"), ("app", "model", "c")])) == ["a.b", "c"]


def test_a_nested_model_is_no_training_run() -> None:
    """Modules of modules, one of which is called `model`; and two wrappers."""
    assert names(metadata([("net", "model", "a", "w"), ("net", "model", "b", "w")])) == [
        "net.model.a.w",
        "net.model.b.w",
    ]
    assert names(metadata([("net", "model", "a.w"), ("net", "vision", "b.w")])) == [
        "net.model.a.w",
        "net.vision.b.w",
    ]
    assert names(metadata([("a", "model", "x.w"), ("b", "model", "x.w")])) == [
        "a.model.x.w",
        "b.model.x.w",
    ]


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
