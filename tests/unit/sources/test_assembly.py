"""A checkpoint is put together from headers, an index and texts, without a file."""

import json
from typing import Any

import pytest

from streamconv.catalog.checkpoint_files import CONFIG
from streamconv.checkpoint.layout_record import METADATA_KEY, Record
from streamconv.checkpoint.types import MANIFEST, Checkpoint, OtherFile, SourceFile
from streamconv.errors import BadCheckpoint
from streamconv.formats.safetensors import Entry, Header
from streamconv.options import Opening
from streamconv.sources.assembly import assemble
from streamconv.sources.shard_header import ShardHeader
from streamconv.sources.shard_index import Index


def shard(file: str, *names: str, metadata: dict[str, str] | None = None) -> ShardHeader:
    """A shard with tensors of 4 bytes, after a header of 100."""
    entries = [Entry(name, "U8", (4,), 4 * k, 4 * k + 4) for k, name in enumerate(names)]
    return ShardHeader(
        Header(tuple(entries), metadata or {}, 100), SourceFile(file, 100 + 4 * len(names), file)
    )


def index_of(**files: str) -> Index:
    return Index({file: {name: name for name in names} for file, names in files.items()})


def assembled(*shards: ShardHeader, **options: Any) -> Checkpoint:
    index = options.pop("index", None)
    texts = options.pop("texts", {})
    others = options.pop("others", [])
    return assemble("here", shards, index, texts, others, **options)


def test_tensors_lie_where_the_headers_say() -> None:
    found = assembled(shard("one", "a", "b"), shard("two", "c"), index=index_of(one="ab", two="c"))
    places = {name: (info.file, info.offset) for name, info in found.tensors.items()}
    assert places == {"a": ("one", 100), "b": ("one", 104), "c": ("two", 100)}
    assert found.total_bytes == 12
    assert [file.name for file in found.files] == ["one", "two"]
    assert (found.unindexed, found.contradictions, found.unlisted) == ((), (), ())


def test_texts_and_other_files() -> None:
    texts = {CONFIG: b'{"model_type": "mixtral"}'}
    others = [OtherFile("vocab.txt", 7), OtherFile("old/model.safetensors", 80)]
    found = assembled(shard("one", *"abcdefghij"), texts=texts, others=others)
    assert (found.config, found.config_text) == ({"model_type": "mixtral"}, texts[CONFIG])
    assert [bool(other.skip_reason) for other in found.others] == [False, True]


def test_a_tensor_that_the_index_leaves_out_is_listed() -> None:
    found = assembled(shard("one", "a", "b"), index=index_of(one="a"))
    assert found.unindexed == ("b",)
    assert "b" in found.tensors


@pytest.mark.parametrize(
    ("shards", "index", "fact"),
    [
        ((("one", "a"), ("two", "a")), None, "tensor a is in two files: one and two"),
        (
            (("one", "ab"), ("two", "c")),
            {"one": "a", "two": "bc"},
            "tensor b is in one, the index says it is in two",
        ),
        ((("one", "a"),), {"one": "ab"}, "tensor b: the index says it is in one, whose header"),
    ],
)
def test_contradictions(
    shards: tuple[tuple[str, str], ...], index: dict[str, str] | None, fact: str
) -> None:
    """Are raised, or listed if they are wanted so."""
    listed = None if index is None else index_of(**index)
    with pytest.raises(BadCheckpoint, match=fact):
        assembled(*(shard(file, *names) for file, names in shards), index=listed)
    listed = None if index is None else index_of(**index)
    found = assembled(
        *(shard(file, *names) for file, names in shards),
        index=listed,
        opening=Opening(lenient=True),
    )
    assert any(fact in each for each in found.contradictions)


def test_files_that_the_index_leaves_out() -> None:
    """Are added if that is asked for, and listed with their tensors otherwise."""
    left_out = [shard("extra", "x", "y")]
    found = assembled(shard("one", "a"), index=index_of(one="a"), unlisted=left_out)
    assert [[info.name for info in file.tensors] for file in found.unlisted] == [["x", "y"]]
    assert set(found.tensors) == {"a"}
    added = assembled(
        *(shard("one", "a"),),
        index=index_of(one="a"),
        unlisted=left_out,
        opening=Opening(add_unlisted=True),
    )
    assert set(added.tensors) == {"a", "x", "y"}
    assert (added.added, added.unlisted) == (("extra",), ())


@pytest.mark.parametrize(
    ("names", "fact"), [("a", "tensor a is in it and in one"), ("", "it describes no tensors")]
)
def test_files_that_cannot_be_added(names: str, fact: str) -> None:
    with pytest.raises(BadCheckpoint, match=f"cannot add extra: {fact}"):
        assembled(
            shard("one", "a"),
            index=index_of(one="a"),
            unlisted=[shard("extra", *names)],
            opening=Opening(add_unlisted=True),
        )


def test_all_shards_record_the_same_layouts() -> None:
    record = Record("hub", "hub", {})
    metadata = {METADATA_KEY: json.dumps(record.to_json())}
    same = assembled(shard("one", "a", metadata=metadata), shard("two", "b", metadata=metadata))
    assert same.record == record
    with pytest.raises(BadCheckpoint, match="two and one record different layouts"):
        assembled(shard("one", "a", metadata=metadata), shard("two", "b"))


def test_a_text_that_is_no_object() -> None:
    with pytest.raises(BadCheckpoint, match=f"cannot read {MANIFEST}: not a JSON object"):
        assembled(shard("one", "a"), texts={MANIFEST: b"[]"})
