"""A small server on loopback that speaks what a client needs of the hub to read a repository.

`/api/models/REPO[/revision/REVISION]` lists files; `/REPO/resolve/REVISION/FILE` answers with the
file, or sends the client on to a storage where `redirect` is set, as the hub does. Bytes that are
sent are counted. `fault` says what goes wrong with a request, or nothing.
"""

import functools
import hashlib
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import close_session, constants

from streamconv.system import retry

COMMIT = "c0ffee" * 6 + "c0ff"


@dataclass(frozen=True)
class Fault:
    """What a request meets instead of its answer."""

    status: int = 206
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    """Bytes of the body after which the connection is cut."""
    seconds_per_chunk: float = 0.0


@dataclass
class Hub:
    """The repositories that the server has: their folders by name."""

    repos: dict[str, Path]
    redirect: bool = True
    fault: Callable[[str, str, str | None], Fault | None] = lambda method, path, span: None
    """Method, path and range of a request to what goes wrong with it."""
    token: str | None = None
    """What has to be shown to the hub; the storage must never see it."""
    commit: str = COMMIT
    head: str = COMMIT
    """What the branch `main` is at."""
    sent: int = 0
    """Bytes of bodies."""
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    leaked: list[str] = field(default_factory=list)
    """Requests to the storage that carried a token."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""
    storage_url: str = ""

    def ranges(self) -> list[tuple[str, int, int]]:
        """File, begin and end of every range that was asked for, in order."""
        return [
            (path.rpartition("/")[2], *map(int, re.findall(r"\d+", span)))
            for method, path, span in self.requests
            if method == "GET" and span
        ]


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The hub and its storage, each at a port of its own, until the context ends."""
    servers = [_Server(hub, is_storage) for is_storage in (False, True)]
    hub.url, hub.storage_url = (f"http://127.0.0.1:{s.server_address[1]}" for s in servers)
    threads = [threading.Thread(target=s.serve_forever, args=(0.02,)) for s in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
        for thread in threads:
            thread.join()


@contextmanager
def taken_for_the_hub(hub: Hub, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Serve it as what huggingface_hub takes for the hub; nobody waits between attempts.

    The cache and the tokens are those below `home`.
    """
    with serving(hub):
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr("huggingface_hub.hf_api.ENDPOINT", hub.url, raising=False)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "cache"))
        monkeypatch.setattr(retry, "FIRST_WAIT", 0.001)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(home / "tokens"))
        yield hub
        close_session()


def _etag(path: Path) -> str:
    stat = path.stat()
    return _sha256(path, stat.st_ino, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _sha256(path: Path, *_state: int) -> str:
    """The hash of a file in this state, made once: every request asks for it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: Hub, is_storage: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub
        self.is_storage = is_storage

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of clients that go away: some are made to."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: "_Server"
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        return

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        span = self.headers.get("Range")
        with self.server.hub.lock:
            self.server.hub.requests.append((self.command, self.path, span))
            if self.server.is_storage and self.headers.get("Authorization"):
                self.server.hub.leaked.append(self.path)
            fault = self.server.hub.fault(self.command, self.path, span)
        if fault and fault.status not in (200, 206):
            self.reply(fault.status, fault.headers, b"")
            return
        authorized = self.headers.get("Authorization") == f"Bearer {self.server.hub.token}"
        if self.server.hub.token and not self.server.is_storage and not authorized:
            self.reply(401, {}, b"")
        elif self.path.startswith("/api/models/"):
            self.listing()
        else:
            self.file(span, fault)

    def listing(self) -> None:
        path = self.path.partition("?")[0].removeprefix("/api/models/")
        repo, _, revision = path.partition("/revision/")
        if repo not in self.server.hub.repos:
            self.reply(404, {"X-Error-Code": "RepoNotFound"}, b"")
            return
        if revision not in ("", "main", self.server.hub.commit):
            self.reply(404, {"X-Error-Code": "RevisionNotFound"}, b"")
            return
        folder = self.server.hub.repos[repo]
        siblings = []
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            size = file.stat().st_size
            entry: dict[str, Any] = {"rfilename": file.relative_to(folder).as_posix()}
            entry |= {"size": size, "blobId": _etag(file)}
            if file.suffix == ".safetensors":
                entry["lfs"] = {"size": size, "sha256": _etag(file), "pointerSize": 130}
            siblings.append(entry)
        sha = self.server.hub.commit if revision == self.server.hub.commit else self.server.hub.head
        fields = {"id": repo, "sha": sha, "siblings": siblings}
        self.reply(200, {"Content-Type": "application/json"}, json.dumps(fields).encode())

    def file(self, span: str | None, fault: Fault | None) -> None:
        repo, _, rest = self.path.lstrip("/").partition("/resolve/")
        commit, _, name = rest.partition("/")
        if repo not in self.server.hub.repos:
            self.reply(404, {"X-Error-Code": "RepoNotFound"}, b"")
            return
        path = self.server.hub.repos[repo] / name
        if commit != self.server.hub.commit or not path.is_file():
            self.reply(404, {"X-Error-Code": "EntryNotFound"}, b"")
            return
        headers = {"ETag": f'"{_etag(path)}"', "X-Repo-Commit": self.server.hub.commit}
        if fault:
            headers |= fault.headers
        if self.server.hub.redirect and not self.server.is_storage:
            headers |= {"X-Linked-Size": str(path.stat().st_size)}
            headers |= {"X-Linked-ETag": headers.pop("ETag")}
            self.reply(302, {**headers, "Location": self.server.hub.storage_url + self.path}, b"")
            return
        size = path.stat().st_size
        is_part = span is not None and not (fault and fault.status == 200)
        begin, end = map(int, re.findall(r"\d+", span or "")) if is_part else (0, size - 1)
        with path.open("rb") as file:
            file.seek(begin)
            data = file.read(end + 1 - begin)
        if is_part:
            headers.setdefault("Content-Range", f"bytes {begin}-{end}/{size}")
        self.reply(206 if is_part else 200, headers, data, fault)

    def reply(
        self, status: int, headers: dict[str, str], body: bytes, fault: Fault | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = fault.cut_after if fault else None
        if cut is not None:
            body = body[:cut]
        with self.server.hub.lock:
            self.server.hub.sent += len(body)
        try:
            for begin in range(0, len(body), 1 << 16):
                self.wfile.write(body[begin : begin + (1 << 16)])
                if fault and fault.seconds_per_chunk:
                    self.wfile.flush()
                    time.sleep(fault.seconds_per_chunk)
            self.wfile.flush()
        except OSError:
            self.close_connection = True
        if cut is not None:
            self.close_connection = True
