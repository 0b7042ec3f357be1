"""Reads byte ranges over HTTP into buffers. A range is resumed until all of it has arrived.

After a failure the range is requested from where the last attempt stopped. Every response is
checked against the file that was planned from: status 206, the range, the size, and an ETag that
never changes.
"""

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from streamconv.errors import SourceChanged, quoted
from streamconv.sources.bad_answers import explain_bad_answers
from streamconv.sources.request_gate import RequestGate
from streamconv.system import deadline
from streamconv.system.cancellation import CancelToken
from streamconv.system.deadline import LeastRate, TooSlow, within
from streamconv.system.retry import TransientError, retry, retry_after

if TYPE_CHECKING:
    import httpx2

TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as dead."""
TRANSIENT_STATUS = (408, 425, 429, 500, 502, 503, 504)
"""Responses after which a request is made again."""
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})")


@dataclass(frozen=True, slots=True)
class RangeLocation:
    """The address at which ranges of a file can be requested; it may expire."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)


class Ranges:
    """Ranges of the files of a server. Several threads may read at the same time."""

    def __init__(
        self,
        client: Callable[[], "httpx2.Client"],
        locate: Callable[[str], RangeLocation],
        cancel: CancelToken,
    ) -> None:
        """Prepare to read; nothing is requested yet.

        Args:
            client: Returns the client to send requests with.
            locate: Returns the location of a file, by its name. Called again after a location has
                failed. May raise TransientError.
            cancel: Ends all reads.
        """
        self._client = client
        self._locate = locate
        self._cancel = cancel
        self._locations: dict[str, RangeLocation] = {}
        self._etags: dict[str, str] = {}
        self._lock = threading.Lock()
        self._gate = RequestGate(cancel)

    def read_into(self, name: str, size: int, offset: int, buffers: Sequence[memoryview]) -> None:
        """Fill the buffers in turn with consecutive bytes of a file.

        Args:
            name: The name of the file, as `locate` knows it.
            size: Bytes that the file must have.
            offset: Bytes from the beginning of the file.
            buffers: Filled one after the other.

        Raises:
            SourceChanged: The file has another size or ETag.
            IOFailed: All retries failed.
            Interrupted: The run was canceled.
        """
        pending = _PendingRange(name, size, offset, [buffer for buffer in buffers if buffer])
        retry(
            f"cannot read {quoted(name)}",
            lambda: self._request_rest(pending),
            self._cancel,
            "check the network",
        )

    def _request_rest(self, pending: "_PendingRange") -> None:
        """Request the bytes of a range that have not arrived yet."""
        if not pending.missing:
            return
        location = self._location(pending.name)
        headers = {
            **location.headers,
            "Range": f"bytes={pending.position}-{pending.position + pending.missing - 1}",
            "Accept-Encoding": "identity",
        }
        before = pending.missing
        try:
            with (
                explain_bad_answers(quoted(pending.name)),
                self._gate.request() as measured,
                ExitStack() as stack,
            ):
                response = self._open(location, headers)
                stack.callback(response.close)
                measured.begin()
                self._check(response, pending)
                rate = LeastRate()
                for chunk in response.iter_raw():
                    self._cancel.check()
                    pending.take(chunk)
                    rate.add(len(chunk))
                    measured.add(len(chunk))
        except BaseException as error:
            # whatever failed, the next read asks for a location that may be a better one
            self._forget_location(pending.name)
            if isinstance(error, TransientError):
                error.progress = pending.missing < before and not isinstance(error, TooSlow)
            raise
        if pending.missing:
            raise TransientError(
                f"the response ended {pending.missing} bytes early",
                progress=pending.missing < before,
            )

    def _open(self, location: RangeLocation, headers: Mapping[str, str]) -> "httpx2.Response":
        """Request a range, and return the response when its headers are here."""
        client = self._client()
        request = client.build_request("GET", location.url, headers=headers, timeout=TIMEOUT)
        return within(
            deadline.ANSWER_SECONDS,
            lambda: client.send(request, stream=True),
            self._cancel,
            lambda late: late.close(),
        )

    def _check(self, response: "httpx2.Response", pending: "_PendingRange") -> None:
        """Check that a response is the requested range of the file that was planned from."""
        status = response.status_code
        if status in TRANSIENT_STATUS:
            raise TransientError(f"the server answers {status}", wait=retry_after(response.headers))
        if status == 416:
            raise _changed(pending.name, f"it has no bytes from {pending.position} on")
        if status == 200 and pending.missing == pending.size:
            self._check_etag(response, pending.name)
            return
        if status != 206:
            # an expired location answers 403, and another one may work
            if status == 200:
                raise TransientError(
                    "the server answers 200, the whole file, to a request for a part of it"
                )
            raise TransientError(f"the server answers {status}")
        match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
        begin, end, size = (int(text) for text in match.groups()) if match else (-1, -1, -1)
        if size not in (pending.size, -1):
            raise _changed(pending.name, f"it had {pending.size} bytes, it has {size}")
        first, last = pending.position, pending.position + pending.missing - 1
        if (begin, end) != (first, last):
            raise TransientError(
                f"the server sends bytes {begin} to {end} instead of {first} to {last}"
            )
        self._check_etag(response, pending.name)

    def _check_etag(self, response: "httpx2.Response", name: str) -> None:
        """Check that the ETag of a file, if there is one, is that of its first response."""
        etag = response.headers.get("etag")
        if etag is None:
            return
        with self._lock:
            first = self._etags.setdefault(name, etag)
        if etag != first:
            raise _changed(name, f"its ETag was {quoted(first)}, it is {quoted(etag)}")

    def _location(self, name: str) -> RangeLocation:
        with self._lock:
            location = self._locations.get(name)
        if location is None:
            location = self._locate(name)
            with self._lock:
                self._locations[name] = location
        return location

    def _forget_location(self, name: str) -> None:
        with self._lock:
            self._locations.pop(name, None)


class _PendingRange:
    """A range of a file, and the buffers for the bytes of it that have not arrived yet."""

    def __init__(self, name: str, size: int, offset: int, buffers: list[memoryview]) -> None:
        self.name = name
        self.size = size
        """Bytes of the whole file."""
        self.position = offset
        """Where in the file the next byte is."""
        self.missing = sum(map(len, buffers))
        """Bytes that have not arrived yet."""
        self._buffers = buffers

    def take(self, chunk: bytes) -> None:
        """Store the next bytes. Raises TransientError if there are too many."""
        if len(chunk) > self.missing:
            raise TransientError(
                f"the server sends {len(chunk) - self.missing} bytes more than requested"
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
