"""The listing of a repository is untrusted: every field of it is checked."""

import json
from typing import Any

import pytest

from streamconv.errors import BadCheckpoint
from streamconv.sources.hub_listing import Listing, parse_listing

FILES = [
    {"rfilename": "config.json", "size": 660, "blobId": "b10b"},
    {"rfilename": "model.safetensors", "size": 7, "blobId": "x", "lfs": {"sha256": "5ha"}},
    {"rfilename": "a/vocab.txt", "size": 0},
]


def parsed(**changed: Any) -> Listing:
    fields = {"sha": "c0ffee", "siblings": FILES, **changed}
    return parse_listing(json.dumps(fields).encode(), "org/name")


def test_a_listing() -> None:
    """A file of LFS has the digest of its content as its ETag."""
    found = parsed()
    assert found.commit == "c0ffee"
    assert found.sizes == {"config.json": 660, "model.safetensors": 7, "a/vocab.txt": 0}
    assert found.etags == {"config.json": "b10b", "model.safetensors": "5ha"}


@pytest.mark.parametrize(
    ("changed", "fact"),
    [
        ({"sha": 3}, "its commit is a number that cannot be right"),
        ({"sha": "../x"}, 'its commit is "../x"'),
        ({"siblings": {}}, "its files are an object"),
        ({"siblings": None}, "its files are null"),
        ({"siblings": ["config.json"]}, 'one of its files is "config.json"'),
        ({"siblings": [{"rfilename": ""}]}, "one of its files is an object"),
        ({"siblings": [{"rfilename": "a"}]}, "the size of a is null"),
        ({"siblings": [{"rfilename": "a", "size": True}]}, "the size of a is true"),
        ({"siblings": [{"rfilename": "a", "size": -1}]}, "the size of a is a number"),
        ({"siblings": [{"rfilename": "a", "size": 2**63}]}, "the size of a is a number"),
        ({"siblings": [{"rfilename": "a", "size": 1, "lfs": []}]}, "the lfs of a is a list"),
        ({"siblings": [{"rfilename": "a", "size": 1, "blobId": 1}]}, "the digest of a is a number"),
        ({"siblings": [FILES[0], FILES[0]]}, "it names config.json twice"),
    ],
)
def test_a_field_that_is_wrong(changed: dict[str, Any], fact: str) -> None:
    with pytest.raises(BadCheckpoint) as caught:
        parsed(**changed)
    assert caught.value.message.startswith(
        f"cannot read org/name: the hub's answer is not a listing of files: {fact}"
    )


@pytest.mark.parametrize(("raw", "fact"), [(b"<html>", "it is not JSON"), (b"[]", "not an object")])
def test_something_else(raw: bytes, fact: str) -> None:
    with pytest.raises(BadCheckpoint, match=fact) as caught:
        parse_listing(raw, "org/name")
    assert "a proxy may answer instead of the hub" in caught.value.hint


def test_a_listing_without_a_commit() -> None:
    with pytest.raises(BadCheckpoint, match="the hub does not say at which commit it is"):
        parsed(sha=None)
