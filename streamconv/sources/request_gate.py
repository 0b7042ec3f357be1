"""Lets as many requests to a server run at a time as the link to it needs.

Each response is measured: the time to its first byte, the rate of its own bytes, and the rate of
all bytes that arrived meanwhile. The best value of each counts, because a disturbance makes a
request slower, never faster. After a while everything is measured again, and with few requests: how
fast a response would be alone shows only if few share the link.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from streamconv.sources.link import LEAST_REQUESTS, Link, request_seconds, requests_in_flight
from streamconv.system.cancellation import SIGNAL_SECONDS, CancelToken

PERIOD_SECONDS = 30.0
"""After this time the link is measured again, unless requests take long."""
PERIOD_REQUESTS = 20
"""The link is not measured again before this many requests could follow one another: it takes
several to find out how many are needed at a time."""
PACE = 1.25
"""Requests are sent a little faster than they are answered, but not all at once. If they were sent
together, they would end together, and the link would be idle for the latency of the next ones."""
LARGE_BYTES = 2**18
"""Responses of fewer bytes arrive at once: they show no rate of their own."""
SHARE_OF_NEWEST = 0.25
"""The weight of the newest response in the mean size of responses."""


class RequestGate:
    """A gate for requests to one server. Several threads pass it at a time."""

    def __init__(self, cancel: CancelToken, clock: Callable[[], float] = time.monotonic) -> None:
        self.allowed = LEAST_REQUESTS
        """How many requests may be in flight."""
        self._cancel = cancel
        self._clock = clock
        self._changed = threading.Condition()
        self._in_flight = 0
        self._last_sent = -math.inf
        self._arrived = 0
        self._size = 0.0
        self._link = _UNKNOWN
        self._since = clock()

    @contextmanager
    def request(self) -> "Iterator[Response]":
        """Wait until one more request may be in flight, which ends with the context.

        Raises Interrupted if the run is canceled meanwhile.
        """
        with self._changed:
            while (wait := self.seconds_to_wait()) > 0:
                self._changed.wait(min(wait, SIGNAL_SECONDS))
                self._cancel.check()
            self._in_flight += 1
            response = Response(self, self._clock(), self._arrived)
            self._last_sent = response.sent
        try:
            yield response
            with self._changed:
                self._learn(response)
        finally:
            with self._changed:
                self._in_flight -= 1
                self._changed.notify_all()

    def seconds_to_wait(self) -> float:
        """Return the seconds until the next request may be sent.

        That is infinity if another one has to end first.
        """
        if self._in_flight >= self.allowed:
            return math.inf
        if not self._link.rate:
            return 0.0
        return self._last_sent + self._size / (PACE * self._link.rate) - self._clock()

    def now(self) -> float:
        """Return the time, in seconds of the gate's clock."""
        return self._clock()

    def count(self, nbytes: int) -> None:
        """Count bytes that have arrived with any response."""
        with self._changed:
            self._arrived += nbytes

    def _learn(self, response: "Response") -> None:
        """Measure the link by a complete response, and adjust how many may be in flight."""
        now = self._clock()
        if now - self._since > self._period():
            self._since, self._link, self.allowed = now, _UNKNOWN, LEAST_REQUESTS
        seconds = now - response.sent
        if response.sent < self._since or not response.nbytes or seconds <= 0:
            return
        first = seconds if response.first is None else response.first - response.sent
        latency = min(self._link.latency, first)
        alone = self._link.alone if self._link.alone < math.inf else 0.0
        if response.nbytes >= LARGE_BYTES and seconds > latency:
            alone = max(alone, response.nbytes / (seconds - latency))
        rate = max(self._link.rate, (self._arrived - response.arrived) / seconds)
        self._link = Link(rate, latency, alone or math.inf)
        self._size += SHARE_OF_NEWEST * (response.nbytes - self._size)
        self.allowed = requests_in_flight(self._link, self._size)

    def _period(self) -> float:
        """Return the seconds for which measurements count; infinity before the first one."""
        return max(PERIOD_SECONDS, PERIOD_REQUESTS * request_seconds(self._link, self._size))


_UNKNOWN = Link(rate=0.0, latency=math.inf, alone=math.inf)


class Response:
    """The response to a request that is in flight."""

    def __init__(self, gate: RequestGate, sent: float, arrived: int) -> None:
        self._gate = gate
        self.sent = sent
        """When the request was sent, in seconds of the gate's clock."""
        self.arrived = arrived
        """Bytes of all responses that had arrived by then."""
        self.first: float | None = None
        """When its first byte arrived; None if that is not known."""
        self.nbytes = 0
        """Bytes that have arrived."""

    def begin(self) -> None:
        """Set the time at which the first byte arrived: now."""
        self.first = self._gate.now()

    def add(self, nbytes: int) -> None:
        """Count bytes that have arrived."""
        self.nbytes += nbytes
        self._gate.count(nbytes)
