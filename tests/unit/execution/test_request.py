"""A request as it is stored for `finish` and for a run that resumes."""

import pytest

from streamconv.errors import BadCheckpoint
from streamconv.execution.request import ConversionRequest, read_request

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
            "part": "1/2",
            "jobs": 3,
            "max_memory": "1GB",
            "max_rate": "1MB/s",
        },
    )
    assert request.to_json() == STORED


def test_a_stored_request_resumes() -> None:
    """At the target that it was found next to."""
    assert read_request(STORED, "request.json", "there") == ConversionRequest(
        "hf://org/name@c0ffee",
        "there",
        overwrite=True,
        resume=True,
        options={"layers": "0:2", "family": "/own.toml"},
    )


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"3", b'{"src": "a"}', b"\xff", b'{"src": 1}'])
def test_anything_else_is_refused(raw: bytes) -> None:
    """With the name of the file."""
    with pytest.raises(BadCheckpoint, match=r"cannot read /some/file: it is not a request"):
        read_request(raw, "/some/file", "out")
