"""Hubs and storages that answer wrongly: one line, the right exit code, within a bound."""

import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from folders import qwen_tensors, two_shards, write_checkpoint
from hub_server import COMMIT, Fault, Hub, taken_for_the_hub
from huggingface_hub import close_session

import streamconv
from streamconv.errors import (
    BadCheckpoint,
    IOFailed,
    SourceChanged,
    StreamconvError,
    UsageError,
)
from streamconv.sources import http_ranges, hub_listing
from streamconv.system import deadline, retry

LOCATION = "hf://org/name"
MANY = "9" * 5000
BOUND = 20.0
"""Seconds in which every row ends, with the times of the program made short."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    config = {"model_type": "qwen3_moe", "num_experts": 3}
    folder = write_checkpoint(tmp_path / "src", two_shards(qwen_tensors()), config)
    monkeypatch.setattr(deadline, "ANSWER_SECONDS", 0.6)
    monkeypatch.setattr(deadline, "LEAST_BYTES_SECONDS", 0.3)
    monkeypatch.setattr(retry, "LONGEST_ASKED_WAIT", 0.01)
    with taken_for_the_hub(Hub({"org/name": folder}), tmp_path, monkeypatch) as hub:
        yield hub


def one_line(error: StreamconvError) -> None:
    assert error.message.isprintable(), error.message
    assert len(error.message) < 1000


# --- the listing -------------------------------------------------------------------------------

FILE = {"rfilename": "config.json", "size": 2, "blobId": "x"}
WRONG: tuple[Any, ...] = (None, [], {}, "text", "", -1, 1.5, 10**4000, True, [[]], {"a": []})


def bodies() -> dict[str, bytes]:
    """Bodies that are no listing: each field of it of every wrong kind, and what is no JSON."""
    good = {"sha": COMMIT, "siblings": [FILE]}
    found = {
        "HTML": b"<html><body>log in to the network</body></html>",
        "nothing": b"",
        "half": json.dumps(good).encode()[:40],
        "no UTF-8": b'{"sha": "\xff"}',
        "a number of 5,000 digits": b'{"sha": ' + MANY.encode() + b"}",
        "deep": b"[" * 200_000,
        "a list": b"[]",
        "null": b"null",
        "no fields": b"{}",
        "twice": json.dumps({**good, "siblings": [FILE, FILE]}).encode(),
        "a file and a folder": json.dumps(
            {**good, "siblings": [{**FILE, "rfilename": "a"}, {**FILE, "rfilename": "a/b/c"}]}
        ).encode(),
    }
    sizes = (*WRONG, 2**63)
    for wrong in WRONG:
        shown = repr(wrong)[:12]
        found[f"sha {shown}"] = json.dumps({**good, "sha": wrong}).encode()
        found[f"siblings {shown}"] = json.dumps({**good, "siblings": wrong}).encode()
        found[f"sibling {shown}"] = json.dumps({**good, "siblings": [FILE, wrong]}).encode()
        for field in ("rfilename", "lfs"):
            if field == "lfs" and wrong in (None, {}):
                continue
            files = [{**FILE, field: wrong}]
            found[f"{field} {shown}"] = json.dumps({**good, "siblings": files}).encode()
        if wrong is not None and not isinstance(wrong, str):
            files = [{**FILE, "lfs": {"sha256": wrong}}, {**FILE, "blobId": wrong}]
            for name, file in zip(("sha256", "blobId"), files, strict=True):
                found[f"{name} {shown}"] = json.dumps({**good, "siblings": [file]}).encode()
    for size in sizes:
        files = [{**FILE, "size": size}]
        found[f"size {repr(size)[:12]}"] = json.dumps({**good, "siblings": files}).encode()
    for field in FILE:
        files = [{k: v for k, v in FILE.items() if k != field}]
        found[f"no {field}"] = json.dumps({**good, "siblings": files}).encode()
    return found


BODIES = bodies()


@pytest.mark.parametrize("body", BODIES)
def test_a_listing_that_is_none(body: str, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's answer is bad: exit code 3. Nothing but the listing is asked for."""
    monkeypatch.setattr(hub_listing, "_body", lambda *_: BODIES[body])
    begin = time.monotonic()
    with pytest.raises(BadCheckpoint) as caught:
        streamconv.plan(LOCATION)
    one_line(caught.value)
    assert time.monotonic() - begin < 20
    assert not any("/resolve/" in path for _, path, _ in hub.requests)


# --- servers that speak HTTP badly -------------------------------------------------------------

Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def raw_server(answer: Answer) -> Iterator[str]:
    """A server that answers every request in one way."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.close_connection = True
            with suppress(OSError):
                answer(self)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.socket.close()


def sends(raw: bytes) -> Answer:
    return lambda handler: handler.wfile.write(raw) and None


def slowly(head: bytes, piece: bytes) -> Answer:
    """Send a piece at a time, for ever: less than the least rate, and never silent."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(head)
        while True:
            handler.wfile.write(piece)
            handler.wfile.flush()
            time.sleep(0.05)

    return answer


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        handler.wfile.write(b" " * 2**20)


def redirects(location: str) -> Answer:
    return sends(f"HTTP/1.1 302 Found\r\nLocation: {location}\r\n\r\n".encode("latin-1"))


def status(code: int, *headers: str, body: str = "") -> Answer:
    lines = [f"HTTP/1.1 {code} X", *headers, "", body]
    return sends("\r\n".join(lines).encode("latin-1"))


ROWS: dict[str, tuple[Answer, type[StreamconvError]]] = {
    "a byte at a time": (slowly(b"HTTP/1.1 200 OK\r\n\r\n", b" "), IOFailed),
    "a header at a time": (slowly(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"), IOFailed),
    "a byte of a header at a time": (slowly(b"HTTP/1.1 200 OK\r\nX: ", b"y"), IOFailed),
    "a silent server": (slowly(b"", b""), IOFailed),
    "an answer without end": (endless, BadCheckpoint),
    "HTML": (status(200, "Content-Type: text/html", body="<html>"), BadCheckpoint),
    "no HTTP": (sends(b"SSH-2.0-OpenSSH_9.6\r\n"), IOFailed),
    "nothing": (sends(b""), IOFailed),
    "a redirect to itself": (redirects("/api/models/org/name"), BadCheckpoint),
    "a redirect without a location": (status(302), BadCheckpoint),
    "a redirect to nowhere": (redirects("http://["), IOFailed),
    "a redirect to a file": (redirects("file:///etc/passwd"), BadCheckpoint),
    "a redirect to a port beyond all": (redirects("http://x:99999999/"), IOFailed),
    "a redirect to a terminal": (redirects("http://\x1b[31m/\x9b"), BadCheckpoint),
    "a redirect to a dead server": (redirects("http://127.0.0.1:1/"), IOFailed),
    "a length that is no number": (status(200, "Content-Length: many"), IOFailed),
    "a length of 5,000 digits": (status(200, f"Content-Length: {MANY}"), IOFailed),
    "a length below zero": (status(200, "Content-Length: -5"), IOFailed),
    "a length that is too long": (status(200, "Content-Length: 99", body="{}"), IOFailed),
    "chunks that are none": (status(200, "Transfer-Encoding: chunked", body="zz\r\n"), IOFailed),
    "an encoding that is none": (status(200, "Content-Encoding: gzip", body="{}"), BadCheckpoint),
    "a status of 999": (status(999), BadCheckpoint),
    "a status that is no number": (sends(b"HTTP/1.1 abc\r\n\r\n"), IOFailed),
    **{
        f"a failure, and to wait {wait[:30]!r}": (status(503, f"Retry-After: {wait}"), IOFailed)
        for wait in (
            MANY,
            "-1",
            "",
            "soon",
            "1e999",
            "Mon, 01 Jan 99999 00:00:00 GMT",
            "\xb2",
            f"Mon, 01 Jan {MANY} 00:00:00 GMT",
            "Mon, 99 Jan 2030 00:00:00 GMT",
        )
    },
    "a refusal of 5,000 digits": (status(429, f'RateLimit: "api";r=0;t={MANY}'), IOFailed),
    "a refusal": (status(418, "X-Error-Message: \x1b[31m"), BadCheckpoint),
}


@pytest.mark.parametrize("row", ROWS)
def test_an_answer_to_the_listing(row: str, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    answer, kind = ROWS[row]
    with raw_server(answer) as url:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        begin = time.monotonic()
        with pytest.raises(StreamconvError) as caught:
            streamconv.plan(LOCATION)
    assert type(caught.value) is kind, caught.value.message
    one_line(caught.value)
    assert time.monotonic() - begin < BOUND


@pytest.mark.parametrize("row", [row for row in ROWS if row != "an answer without end"])
def test_an_answer_of_the_storage(row: str, hub: Hub) -> None:
    """The bytes of a file: as for the listing, but a storage's refusals pass or do not."""
    answer, _ = ROWS[row]
    with raw_server(answer) as url:
        hub.redirect = True
        hub.fault = lambda method, path, span: (
            Fault(302, {"Location": url + "/x", "X-Linked-ETag": "x"})
            if "/resolve/" in path and method == "HEAD"
            else None
        )
        begin = time.monotonic()
        with pytest.raises((BadCheckpoint, IOFailed)) as caught:
            streamconv.plan(LOCATION)
    one_line(caught.value)
    assert time.monotonic() - begin < BOUND


@pytest.mark.parametrize(
    "span", [f"bytes 0-7/{MANY}", f"bytes {MANY}-7/9", "bytes */9", "", "\xb2", "bytes \xb2-3/4"]
)
def test_a_content_range_that_is_none(span: str, hub: Hub) -> None:
    hub.fault = lambda *_: Fault(206, {"Content-Range": span})
    with pytest.raises((BadCheckpoint, IOFailed)) as caught:
        streamconv.plan(LOCATION)
    one_line(caught.value)


WORDS = (
    *("HTTP/1.1 ", "200", "206", "302", "503", " OK", "{", "}", "[]", "3", "/x"),
    *("Location: ", "http://127.0.0.1:1/", "Content-Length: ", "Content-Range: bytes 0-1/2"),
    *("ETag: ", "Retry-After: ", "Transfer-Encoding: chunked"),
)


def test_random_misbehaviour(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of answers put together at random, 150 times, with a fixed seed."""
    chance = random.Random(13)
    listing = json.dumps({"sha": COMMIT, "siblings": [FILE]}).encode()
    pieces = [b"\r\n", b"\r\n\r\n", b"\0", b"\xff", listing, MANY.encode()]
    pieces += [word.encode() for word in WORDS]

    def answer(handler: BaseHTTPRequestHandler) -> None:
        start = b"HTTP/1.1 200 OK\r\n" if chance.random() < 0.7 else b""
        handler.wfile.write(start + b"".join(chance.choices(pieces, k=chance.randrange(12))))

    monkeypatch.setattr(retry, "ATTEMPTS", 2)
    with raw_server(answer) as url:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        for _ in range(150):
            with pytest.raises((BadCheckpoint, IOFailed)) as caught:
                streamconv.plan(LOCATION)
            one_line(caught.value)


# --- slices that are read while the hub fails ----------------------------------------------------

LAZY_FAULTS: dict[str, tuple[Fault, type[StreamconvError] | None]] = {
    "fails once": (Fault(503), None),
    "fails": (Fault(500), IOFailed),
    "is asked too often": (Fault(429, {"Retry-After": "9999"}), IOFailed),
    "is cut": (Fault(206, cut_after=5), None),
    "is cut at once": (Fault(206, cut_after=0), IOFailed),
    "sends another range": (Fault(206, {"Content-Range": "bytes 1-2/x"}), IOFailed),
    "has a file of another size": (Fault(206, {"Content-Range": "bytes 0-1/2"}), SourceChanged),
    "has another file": (Fault(206, {"ETag": '"other"'}), SourceChanged),
    "is slow": (Fault(206, seconds_per_chunk=1.0), None),
    "asks for a token": (Fault(401), IOFailed),
    "forbids it": (Fault(403), IOFailed),
    "has lost the file": (Fault(404), IOFailed),
    "redirects without end": (Fault(302, {"Location": "/loop"}), BadCheckpoint),
}


@pytest.mark.parametrize("row", LAZY_FAULTS)
def test_a_storage_that_fails_between_two_slices(
    row: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The read is retried, or ends in one line that names the file; the next one works again."""
    fault, kind = LAZY_FAULTS[row]
    monkeypatch.setattr(http_ranges, "TIMEOUT", 0.5)
    threads = threading.active_count()
    left = [1 if kind is None else 10**6]

    def failing(method: str, path: str, span: str | None) -> Fault | None:
        left[0] -= span is not None
        return fault if span is not None and left[0] >= 0 else None

    with streamconv.open(hub.repos["org/name"], "fused", framework="np") as local:
        lazy = streamconv.open(LOCATION, "fused", framework="np")
        for name in list(lazy)[:2]:
            hub.fault = failing
            begin = time.monotonic()
            if kind is None:
                assert (lazy[name][:] == local[name][:]).all()
            else:
                with pytest.raises(kind) as caught:
                    lazy[name].read()
                one_line(caught.value)
                assert re.search(r"model-0000\d-of-00002\.safetensors", caught.value.message)
                assert caught.value.hint
            assert time.monotonic() - begin < BOUND
            hub.fault = lambda *_: None
            assert (lazy[name].read() == local[name].read()).all()
    lazy.close()
    close_session()
    assert threading.active_count() <= threads + 8  # those of the server, which end by themselves


# --- the environment ---------------------------------------------------------------------------

ENVIRONMENTS = (
    *(
        {"HF_ENDPOINT": text}
        for text in ("nonsense", "http://", "ftp://x", "http://[", "http://x:y")
    ),
    {"HF_ENDPOINT": "http://\u202e"},
    {"HF_TOKEN": "hf_\u00e9"},
    {"HF_TOKEN": "hf_a\tb"},
    {"HF_TOKEN": "hf_\x1b[31m"},
    {"HF_TOKEN": "", "HF_TOKEN_PATH": "/dev/zero"},
    {"ALL_PROXY": "socks5://127.0.0.1:1"},
    {"ALL_PROXY": "nonsense://x"},
)


@pytest.mark.parametrize("settings", ENVIRONMENTS, ids=str)
def test_an_environment_that_cannot_be_used(settings: dict[str, str], tmp_path: Path) -> None:
    """Exit code 2 and a hint, before any request."""
    environment = {"HF_ENDPOINT": "http://127.0.0.1:1", "HF_HOME": str(tmp_path), **settings}
    done = subprocess.run(
        [sys.executable, "-m", "streamconv", "inspect", LOCATION],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    lines = done.stderr.splitlines()
    assert done.returncode == UsageError.exit_code, done.stderr
    assert lines[0].startswith("streamconv: cannot "), done.stderr
    assert len(lines) == 2, done.stderr
    close_session()
