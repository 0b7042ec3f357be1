"""Byte ranges over HTTP, into buffers, again and again until all of a range is there.

A range is asked for from where the last attempt stopped. What answers is held against the file
that was planned from: status 206, the range, the size, and an ETag that stays the same.
"""

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from streamconv.errors import SourceChanged, quoted
from streamconv.system.cancellation import CancelToken
from streamconv.system.retry import TransientError, retry, retry_after

if TYPE_CHECKING:
    import httpx2

TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as dead."""
PASSING_STATUS = (408, 425, 429, 500, 502, 503, 504)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


@dataclass(frozen=True, slots=True)
class RangeLocation:
    """Where a file's bytes are to be asked for now; such addresses expire."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)


class Ranges:
    """Files that a server sends parts of; safe to use from several threads at once."""

    def __init__(
        self,
        client: Callable[[], "httpx2.Client"],
        locate: Callable[[str], RangeLocation],
        cancel: CancelToken,
    ) -> None:
        """`locate` finds a file's target; it may raise Passing. `cancel` ends all reads."""
        self._client = client
        self._locate = locate
        self._cancel = cancel
        self._targets: dict[str, RangeLocation] = {}
        self._etags: dict[str, str] = {}
        self._lock = threading.Lock()

    def read_into(self, name: str, size: int, offset: int, buffers: Sequence[memoryview]) -> None:
        """Fill the buffers, one behind the other, from `offset` of the file of `size` bytes.

        Raises IOFailed where it cannot be read, SourceChanged where it is another.
        """
        wanted = _Wanted(name, size, offset, [buffer for buffer in buffers if buffer])
        retry(f"{quoted(name)}: reading failed", lambda: self._go_on(wanted), self._cancel)

    def _go_on(self, wanted: "_Wanted") -> None:
        """Ask for what is missing yet."""
        import httpx2

        if not wanted.missing:
            return
        target = self._target(wanted.name)
        headers = {
            **target.headers,
            "Range": f"bytes={wanted.position}-{wanted.position + wanted.missing - 1}",
            "Accept-Encoding": "identity",
        }
        before = wanted.missing
        try:
            with self._client().stream(
                "GET", target.url, headers=headers, timeout=TIMEOUT
            ) as response:
                self._check(response, wanted)
                for chunk in response.iter_raw():
                    self._cancel.check()
                    wanted.take(chunk)
        except httpx2.TransportError as error:
            self._forget(wanted.name)
            fact = str(error) or type(error).__name__
            raise TransientError(fact, progress=wanted.missing < before) from error
        if wanted.missing:
            raise TransientError(
                f"{wanted.missing} bytes did not come", progress=wanted.missing < before
            )

    def _check(self, response: "httpx2.Response", wanted: "_Wanted") -> None:
        """Whether the answer is what was asked for, of the file that was planned from."""
        status = response.status_code
        if status in PASSING_STATUS:
            raise TransientError(f"the server answers {status}", wait=retry_after(response.headers))
        if status == 416:
            raise _changed(wanted.name, f"it has no bytes {wanted.position} and on")
        if status == 200 and wanted.missing == wanted.size:
            self._check_etag(response, wanted.name)
            return
        if status != 206:
            self._forget(wanted.name)
            whole = ", the whole file, to a request for a part of it" if status == 200 else ""
            raise TransientError(f"the server answers {status}{whole}")
        match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
        begin, end, size = (int(text) for text in match.groups()) if match else (-1, -1, -1)
        if size not in (wanted.size, -1):
            raise _changed(wanted.name, f"it had {wanted.size} bytes, it has {size}")
        if (begin, end) != (wanted.position, wanted.position + wanted.missing - 1):
            raise TransientError(
                f"the server sends bytes {begin} to {end}, others than were asked for"
            )
        self._check_etag(response, wanted.name)

    def _check_etag(self, response: "httpx2.Response", name: str) -> None:
        etag = response.headers.get("etag")
        if etag is None:
            return
        with self._lock:
            first = self._etags.setdefault(name, etag)
        if etag != first:
            raise _changed(name, f"its ETag was {quoted(first)}, it is {quoted(etag)}")

    def _target(self, name: str) -> RangeLocation:
        with self._lock:
            target = self._targets.get(name)
        if target is None:
            target = self._locate(name)
            with self._lock:
                self._targets[name] = target
        return target

    def _forget(self, name: str) -> None:
        with self._lock:
            self._targets.pop(name, None)


class _Wanted:
    """A range on its way into buffers."""

    def __init__(self, name: str, size: int, offset: int, buffers: list[memoryview]) -> None:
        self.name = name
        self.size = size
        self.position = offset
        self.missing = sum(map(len, buffers))
        self._buffers = buffers

    def take(self, chunk: bytes) -> None:
        """The next bytes of the range."""
        if len(chunk) > self.missing:
            raise TransientError(
                f"the server sends {len(chunk) - self.missing} bytes more than asked for"
            )
        data = memoryview(chunk)
        while data:
            room = self._buffers[0]
            count = min(len(room), len(data))
            room[:count] = data[:count]
            data = data[count:]
            self._buffers[:1] = [room[count:]] if count < len(room) else []
            self.position += count
            self.missing -= count


def _changed(name: str, fact: str) -> SourceChanged:
    return SourceChanged(f"{quoted(name)} has changed since it was planned: {fact}")
