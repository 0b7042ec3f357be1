"""A request as it is stored for `finish` and for a run that resumes."""

import json
from typing import cast

import pytest

from streamconv.errors import BadCheckpoint
from streamconv.execution.request import PROCESS_OPTIONS, ConversionRequest, read_request
from streamconv.options import Options

STORED = (
    b'{"options": {"family": "/own.toml", "layers": "0:2"}, "overwrite": true, '
    b'"src": "hf://org/name@c0ffee", "to": null}'
)
"""What earlier runs have stored: the fields must stay as they are."""


def test_what_is_the_same_in_every_process_is_stored() -> None:
    """Not the target, nor what is about one process or one run."""
    request = ConversionRequest(
        "hf://org/name@c0ffee",
        "out",
        overwrite=True,
        resume=True,
        verify=True,
        options={
            "layers": "0:2",
            "family": "/own.toml",
            "jobs": 3,
            "max_memory": "1GB",
            "max_rate": "1MB/s",
        },
    )
    assert request.to_json() == STORED


def test_the_number_of_parts_is_stored() -> None:
    """The part itself is not. Requests of earlier versions do not have it."""
    request = ConversionRequest("src", "out", options={"part": "2/3"})
    raw = request.to_json()
    assert json.loads(raw) == {
        "src": "src",
        "to": None,
        "overwrite": False,
        "options": {},
        "parts": 3,
    }
    assert read_request(raw, "request.json", "there").parts == 3
    assert read_request(STORED, "request.json", "there").parts == 1
    for wrong in (0, -1, "3", True, 1.5, 10**9, None):
        with pytest.raises(BadCheckpoint, match="parts"):
            read_request(json.dumps(json.loads(raw) | {"parts": wrong}).encode(), "r", "there")


def test_a_stored_request_resumes() -> None:
    """At the target that it was found next to."""
    assert read_request(STORED, "request.json", "there") == ConversionRequest(
        "hf://org/name@c0ffee",
        "there",
        overwrite=True,
        resume=True,
        options={"layers": "0:2", "family": "/own.toml"},
    )


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b'{"src": "a"}',
        b"\xff",
        b'{"src": 1}',
        b"[" * 10**5,
        b"9" * 5000,
        bytes(256),
        b"NaN",
    ],
)
def test_anything_else_is_refused(raw: bytes) -> None:
    """With the name of the file."""
    refused(raw)


def refused(raw: bytes) -> None:
    """Check that a request is refused in one line."""
    with pytest.raises(BadCheckpoint, match=r"cannot read /some/file: it is not a req") as caught:
        read_request(raw, "/some/file", "out")
    assert len(caught.value.message) < 500
    assert caught.value.message.isprintable()


FIELDS = json.loads(STORED)
WRONG: tuple[object, ...] = (1, -1, 1.5, [], ["x"], {"a": 1}, "\0", "\ud800", 10**30)


@pytest.mark.parametrize("value", WRONG, ids=map(repr, WRONG))
@pytest.mark.parametrize("name", [*FIELDS])
def test_a_field_of_another_kind_is_refused(name: str, value: object) -> None:
    """Each field, and each that is missing or is there twice."""
    if (name, value) not in (("to", "\0"), ("to", "\ud800")):
        refused(json.dumps({**FIELDS, name: value}).encode())
    refused(json.dumps({key: FIELDS[key] for key in FIELDS if key != name}).encode())
    refused(STORED.replace(b"{", f'{{"{name}": null, '.encode(), 1))


OPTIONS = [name for name in Options.__annotations__ if name not in PROCESS_OPTIONS]


@pytest.mark.parametrize("value", WRONG, ids=map(repr, WRONG))
@pytest.mark.parametrize("name", [*OPTIONS, "part", "jobs", "nobody", "\x1b[31m"])
def test_an_option_of_another_kind_is_refused(name: str, value: object) -> None:
    """Each option, those of one process, and those that do not exist."""
    lists = [(n, v) for n in ("rename", "only", "skip") for v in ([], ["x"])]
    lists.remove(("rename", ["x"]))
    if (name, value) not in (("max_shard_size", 1), *lists):
        refused(json.dumps({**FIELDS, "options": {name: value}}).encode())


def test_every_option_of_a_conversion_is_read_back() -> None:
    """None is refused that a run stores."""
    options: dict[str, object] = dict.fromkeys(OPTIONS)
    flags = {
        "fill_from_template",
        "add_unlisted",
        "cast_all",
        "pass_through",
        "copy",
        "keep_config",
        "sha256",
    }
    options |= {**dict.fromkeys(flags, True), "layers": "0:2", "max_shard_size": "4GB"}
    options["rename"] = ["module.=", "*=model.*"]
    request = ConversionRequest("src", "dst", options=cast(Options, options))
    assert read_request(request.to_json(), "file", "dst").options == options


@pytest.mark.parametrize("options", [{"layers": "x"}, {"max_shard_size": "x"}, {"preset": "x"}])
def test_an_option_that_makes_no_sense_is_refused(options: dict[str, str]) -> None:
    """As what the file is, not as what somebody has typed."""
    refused(json.dumps({**FIELDS, "options": options}).encode())


def test_a_request_that_is_cut_is_refused() -> None:
    """At every byte."""
    for end in range(len(STORED)):
        refused(STORED[:end])
