"""Converting from a hub next to `hf download` of the same repository, both ending in a sync.

Part of `make bench`. The hub is a server on loopback, which sends at a rate at most, all requests
together, and waits before it answers each of them. The cache of the client is new for every run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import bench

LAYERS = 1  # of Qwen3-30B-A3B, 1.2 GB
LIMIT = 1.05
"""How much longer than the download the conversion may take."""
LINKS = ((0, 0), *((rate, latency) for rate in (1000, 300, 100) for latency in (1, 20, 100)))
"""MB a second, 0 for no limit, and milliseconds of each request."""
COMMIT = "c0ffee" * 6 + "c0ff"
REPO = "bench/model"
BLOCK = 2**18


class _Link:
    """What all requests share: a rate in bytes a second, and the seconds before an answer."""

    def __init__(self, rate: float, latency: float) -> None:
        self.rate, self.latency = rate, latency
        self._due = 0.0
        self._lock = threading.Lock()

    def wait(self, nbytes: int) -> None:
        """Wait until so many bytes may be sent."""
        if not self.rate:
            return
        with self._lock:
            now = time.monotonic()
            self._due = max(self._due, now - 0.01) + nbytes / self.rate
            wait = self._due - now
        if wait > 0:
            time.sleep(wait)


class _Server(ThreadingHTTPServer):
    """The hub: a folder as a repository, at the end of a link."""

    daemon_threads = True

    def __init__(self, folder: Path, link: _Link) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.link = folder, link

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that go away."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        return

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        time.sleep(self.server.link.latency)
        if self.path.startswith("/api/models/"):
            self._listing()
        else:
            self._file(self.server.folder / self.path.partition("?")[0].rpartition("/")[2])

    def _listing(self) -> None:
        siblings = []
        for path in sorted(self.server.folder.iterdir()):
            size, etag = path.stat().st_size, _etag(path)
            entry = {"rfilename": path.name, "path": path.name, "size": size}
            entry |= {"type": "file", "blobId": etag, "oid": etag}
            if path.suffix == ".safetensors":
                entry["lfs"] = {"size": size, "sha256": etag, "oid": etag, "pointerSize": 130}
            siblings.append(entry)
        fields = {"id": REPO, "sha": COMMIT, "siblings": siblings}
        body = json.dumps(siblings if "/tree/" in self.path else fields).encode()
        self._head(200, {"Content-Type": "application/json", "Content-Length": len(body)})
        self.wfile.write(body)

    def _file(self, path: Path) -> None:
        size = path.stat().st_size
        span = re.findall(r"\d+", self.headers.get("Range") or "")
        begin, end = int(span[0]) if span else 0, int(span[1]) if len(span) > 1 else size - 1
        headers: dict[str, object] = {"Content-Length": end + 1 - begin, "ETag": f'"{_etag(path)}"'}
        headers |= {"X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if span:
            headers["Content-Range"] = f"bytes {begin}-{end}/{size}"
        self._head(206 if span else 200, headers)
        if self.command == "HEAD":
            return
        with path.open("rb") as file:
            while begin <= end:
                count = min(BLOCK, end + 1 - begin)
                self.server.link.wait(count)
                begin += os.sendfile(self.connection.fileno(), file.fileno(), begin, count)

    def _head(self, status: int, headers: dict[str, object]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()


@contextmanager
def serving(folder: Path, link: _Link) -> Iterator[str]:
    """Serve the folder as a repository; yields the address."""
    server = _Server(folder, link)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _etag(path: Path) -> str:
    """A name of the content that takes no reading of it."""
    return hashlib.sha256(f"{path.name} {path.stat().st_size}".encode()).hexdigest()


def hub(work: Path, layers: int, rounds: int, links: Iterable[tuple[int, ...]]) -> list[str]:
    """A row for each link."""
    source, out = work / "source", work / "out"
    bench.require(work, layers * 1.21e9 * 3)
    truesize = bench.python("truesize.py", "qwen3-30b-a3b", source, "--layers", str(layers))
    bench.run(*truesize, "--random", "--experts-only")
    rows = []
    for rate, latency in links:
        link = _Link(rate * 1e6, latency / 1000)
        with serving(source, link) as url:
            bench.ENVIRONMENT.update(
                HF_ENDPOINT=url, HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1"
            )
            download = [Path(sys.executable).parent / "hf", "download", REPO, "--local-dir", out]
            ours = bench.streamconv(
                "convert", f"hf://{REPO}", out, "--to", "fused-transposed", "-q"
            )
            sides: dict[str, list[str | Path]] = {"hf download": download, "streamconv": ours}
            walls: dict[str, list[bench.Sample]] = {name: [] for name in sides}
            for turn in range(rounds):
                for name in list(sides)[:: -1 if turn % 2 else 1]:
                    bench.ENVIRONMENT["HF_HOME"] = str(work / "home")
                    bench.settle(work, bench.OWN_BYTES, source, pause=0)
                    walls[name].append(bench.run(*sides[name], sync=True))
                    bench.remove(out)
                    shutil.rmtree(work / "home", ignore_errors=True)
        plain, made = (bench.median(s.wall for s in walls[name]) for name in sides)
        peak = max(sample.peak for sample in walls["streamconv"]) / 1e6
        met = "yes" if made <= LIMIT * plain else "**no**"
        speed = f"{rate} MB/s" if rate else "loopback"
        rows.append(
            f"| {speed}, {latency} ms | {plain:.2f} | {made:.2f} | {made / plain:.2f} x | {met} "
            f"| {peak:.0f} |"
        )
        print(rows[-1], file=sys.stderr, flush=True)
    return [
        f"Experts of {layers} layers of Qwen3-30B-A3B, {bench.size(source) / 1e9:.1f} GB, to "
        f"`fused-transposed`, medians of {rounds} runs:",
        "",
        f"| link, a request | hf download, s | streamconv, s | ratio | <= {LIMIT:g} x | peak, MB |",
        "|---|---|---|---|---|---|",
        *rows,
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=LAYERS, help=f"layers ({LAYERS})")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each side (3)")
    parser.add_argument("--link", action="append", help="MB/s,ms, such as 300,20; default: all ten")
    parser.add_argument("--work", type=Path, help="work in a new folder in here (next to the cwd)")
    args = parser.parse_args()
    links = [tuple(map(int, text.split(","))) for text in args.link or ()]
    work = Path(tempfile.mkdtemp(prefix="streamconv-bench-", dir=args.work or Path.cwd().parent))
    try:
        print("\n".join(hub(work, args.layers, args.rounds, links or LINKS)))
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
