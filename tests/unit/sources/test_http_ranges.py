"""Every response is checked against the file that was planned from; a cut one is resumed."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from streamconv.errors import BadCheckpoint, Interrupted, IOFailed, SourceChanged
from streamconv.sources.http_ranges import RangeLocation, Ranges
from streamconv.system import retry
from streamconv.system.cancellation import CancelToken

CONTENT = bytes(range(100))
Answer = Callable[[int, int], httpx2.Response]


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.0)


def part(begin: int, end: int, content: bytes | None = None, **headers: str) -> httpx2.Response:
    """The usual answer: bytes `begin` to `end`, both included."""
    span = {"Content-Range": f"bytes {begin}-{end}/100", **headers}
    body = httpx2.ByteStream(content or CONTENT[begin : end + 1])
    return httpx2.Response(206, headers=span, stream=body)


class Server:
    """Gives each answer in turn, the last one again and again, and keeps a log."""

    def __init__(self, *answers: Answer) -> None:
        self.answers: Iterator[Answer] = iter(answers)
        self.last: Answer = part
        self.asked: list[tuple[int, int]] = []
        self.located: list[str] = []
        self.cancel = CancelToken()
        client = httpx2.Client(transport=httpx2.MockTransport(self.answer))
        self.ranges = Ranges(lambda: client, self.locate, self.cancel)

    def locate(self, name: str) -> RangeLocation:
        self.located.append(name)
        return RangeLocation("https://storage/file", {"X-Signed": "yes"})

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        assert request.headers["x-signed"] == "yes"
        begin, _, end = request.headers["range"].removeprefix("bytes=").partition("-")
        self.asked.append((int(begin), int(end)))
        self.last = next(self.answers, self.last)
        return self.last(int(begin), int(end))

    def read(self, offset: int = 10, *sizes: int, size: int = 100) -> list[bytes]:
        buffers = [memoryview(bytearray(count)) for count in sizes or (5, 0, 15)]
        self.ranges.read_into("w", size, offset, buffers)
        return [bytes(buffer) for buffer in buffers]


def test_buffers_are_filled_in_turn() -> None:
    server = Server()
    assert server.read() == [CONTENT[10:15], b"", CONTENT[15:30]]
    assert server.asked == [(10, 29)]
    assert server.read(0, 0) == [b""]
    assert server.asked == [(10, 29)]


def test_a_cut_response_is_resumed_where_it_ended() -> None:
    server = Server(lambda begin, end: part(begin, end, CONTENT[begin : begin + 7]), part)
    assert server.read() == [CONTENT[10:15], b"", CONTENT[15:30]]
    assert server.asked == [(10, 29), (17, 29)]


def status(code: int, **headers: str) -> Answer:
    return lambda *_: httpx2.Response(code, headers=headers, content=b"sorry")


@pytest.mark.parametrize("code", [403, 429, 503])
def test_an_answer_that_may_change_is_asked_for_again(code: int) -> None:
    """At a new location, as the first one may have expired."""
    server = Server(status(code), part)
    server.read()
    assert server.located == ["w", "w"]


def test_a_location_that_leads_nowhere_is_not_kept() -> None:
    """An error ends the read, and the next one may have a better location."""

    def nowhere(*_: object) -> httpx2.Response:
        raise httpx2.UnsupportedProtocol("Request URL has an unsupported protocol 'ftp://'.")

    server = Server(nowhere, part)
    with pytest.raises(BadCheckpoint, match="redirects to no address"):
        server.read()
    assert server.read() == [CONTENT[10:15], b"", CONTENT[15:30]]
    assert server.located == ["w", "w"]


def test_a_whole_file_may_come_whole() -> None:
    """With the status 200, if all of it was asked for."""
    server = Server(lambda *_: httpx2.Response(200, stream=httpx2.ByteStream(CONTENT)))
    assert server.read(0, 100) == [CONTENT]
    with pytest.raises(IOFailed, match="the whole file, to a request for a part of it"):
        server.read(0, 50)


@pytest.mark.parametrize(
    ("answer", "fact"),
    [
        (status(416), "w has changed since it was planned: it has no bytes from 10 on"),
        (
            lambda b, e: part(b, e, **{"Content-Range": f"bytes {b}-{e}/99"}),
            "w has changed since it was planned: it had 100 bytes, it has 99",
        ),
    ],
)
def test_another_file_is_refused(answer: Answer, fact: str) -> None:
    with pytest.raises(SourceChanged, match=fact):
        Server(answer).read()


def test_an_etag_never_changes() -> None:
    server = Server(lambda b, e: part(b, e, ETag="one"), lambda b, e: part(b, e, ETag="two"))
    server.read()
    with pytest.raises(SourceChanged, match="its ETag was one, it is two"):
        server.read()


@pytest.mark.parametrize(
    ("answer", "fact"),
    [
        (lambda b, e: part(b + 1, e), "sends bytes 11 to 29 instead of 10 to 29"),
        (lambda b, e: httpx2.Response(206, content=b"x"), "sends bytes -1 to -1 instead of"),
        (lambda b, e: part(b, e, CONTENT[b:]), "the server sends 70 bytes more than requested"),
        (status(500), "the server answers 500"),
    ],
)
def test_answers_that_stay_wrong_end_the_retries(answer: Any, fact: str) -> None:
    server = Server(answer)
    with pytest.raises(IOFailed, match=f"cannot read w: .*{fact}") as caught:
        server.read()
    assert caught.value.hint == "check the network"
    assert len(server.asked) == retry.ATTEMPTS


def test_a_canceled_run_asks_nothing() -> None:
    server = Server()
    server.cancel.set()
    with pytest.raises(Interrupted):
        server.read()
    assert server.asked == []
