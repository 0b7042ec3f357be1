"""Errors of the HTTP client become retries, or say what the server did."""

import httpx2
import pytest

from streamconv.errors import BadCheckpoint
from streamconv.sources.bad_answers import explain_bad_answers
from streamconv.system.retry import TransientError

REQUEST = httpx2.Request("GET", "https://hub/x")


@pytest.mark.parametrize(
    ("error", "fact"),
    [
        (httpx2.TooManyRedirects("20"), "redirects from one address to another without end"),
        (httpx2.InvalidURL("no port"), "redirects to no address: no port"),
        (httpx2.UnsupportedProtocol("ftp"), "redirects to no address: ftp"),
        (
            httpx2.RemoteProtocolError("Invalid URL in location header: x"),
            "redirects to no address: Invalid URL in location header: x",
        ),
        (httpx2.DecodingError("gzip\x1b"), r"answer makes no sense: gzip\\x1b"),
        (ValueError("chunk"), "answer makes no sense: chunk"),
    ],
)
def test_answers_that_no_retry_would_mend(error: Exception, fact: str) -> None:
    with (
        pytest.raises(BadCheckpoint, match=f"cannot read org/name: the server.* ?{fact}"),
        explain_bad_answers("org/name"),
    ):
        raise error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (httpx2.ConnectError("no route"), "no route"),
        (httpx2.ReadTimeout(""), "ReadTimeout"),
        (httpx2.RemoteProtocolError("closed\n"), r"closed\\n"),
    ],
)
def test_a_network_that_fails_is_retried(error: Exception, reason: str) -> None:
    with pytest.raises(TransientError, match=f"^{reason}$"), explain_bad_answers("org/name"):
        raise error


def test_other_errors_pass() -> None:
    with pytest.raises(KeyError), explain_bad_answers("org/name"):
        raise KeyError("x")
