"""The gate measures a link by the responses: the link is a simulation in short steps of time."""

import threading
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest

from streamconv.errors import Interrupted
from streamconv.sources.link import LEAST_REQUESTS
from streamconv.sources.request_gate import PERIOD_SECONDS, RequestGate, Response
from streamconv.system.cancellation import CancelToken

SIZE = 8 * 2**20


@dataclass
class Request:
    """A request on its way: what is missing of it, and when its first byte arrives."""

    response: Response
    scope: ExitStack
    due: float
    missing: float = SIZE


@dataclass
class Wire:
    """A link that all responses share, each of them at `limit` bytes a second at most."""

    rate: float
    latency: float
    limit: float = float("inf")
    workers: int = 64
    step: float = 0.001
    time: float = 0.0
    arrived: float = 0.0
    requests: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gate = RequestGate(CancelToken(), clock=lambda: self.time)

    def run(self, seconds: float) -> float:
        """Keep as many requests in flight as may be; return the bytes a second that arrived."""
        before, end = self.arrived, self.time + seconds
        while self.time < end:
            while len(self.requests) < self.workers and self.gate.seconds_to_wait() <= 0:
                scope = ExitStack()
                response = scope.enter_context(self.gate.request())
                self.requests.append(Request(response, scope, self.time + self.latency))
            self.time += self.step
            self._carry()
        return (self.arrived - before) / seconds

    def _carry(self) -> None:
        """Let the bytes of a step arrive."""
        here = [each for each in self.requests if each.due <= self.time]
        for each in here:
            if each.response.first is None:
                each.response.begin()
            nbytes = min(self.rate / len(here), self.limit) * self.step
            count = min(nbytes, each.missing)
            each.response.add(int(count))
            each.missing -= count
            self.arrived += count
            if each.missing <= 0:
                self.requests.remove(each)
                each.scope.close()


@pytest.mark.parametrize("latency", [0.001, 0.02, 0.1])
@pytest.mark.parametrize("rate", [100e6, 300e6, 1000e6])
def test_a_link_is_soon_full_and_stays_so(rate: float, latency: float) -> None:
    wire = Wire(rate, latency)
    wire.run(2)
    assert wire.run(3) >= 0.95 * rate
    assert wire.gate.allowed <= 1.5 * (LEAST_REQUESTS + rate * latency / SIZE) + 2


def test_more_are_in_flight_on_a_link_that_is_fast_and_long() -> None:
    slow, fast = Wire(100e6, 0.001), Wire(1000e6, 0.1)
    for wire in (slow, fast):
        wire.run(3)
    assert fast.gate.allowed >= 2 * slow.gate.allowed


def test_a_server_that_limits_each_response_is_asked_more_often() -> None:
    wire = Wire(400e6, 0.02, limit=40e6)
    wire.run(4)
    assert wire.run(2) >= 0.95 * 400e6


@pytest.mark.parametrize("seconds", [8, 45])
def test_responses_that_take_as_long_as_a_period(seconds: float) -> None:
    """Many of them are needed, and only several, one after the other, show how many."""
    limit = SIZE / seconds
    wire = Wire(1000e6, 0.05, limit, workers=16, step=0.05)
    wire.run(6 * seconds)
    assert wire.run(3 * seconds) >= 0.95 * 16 * limit


def test_a_link_that_becomes_longer_is_measured_anew() -> None:
    wire = Wire(1000e6, 0.001, workers=16)
    wire.run(3)
    few = wire.gate.allowed
    wire.latency = 0.1
    wire.run(PERIOD_SECONDS + 3)
    assert wire.gate.allowed > few
    assert wire.run(3) >= 0.9 * 1000e6


def test_a_failed_request_frees_its_place_and_shows_nothing() -> None:
    gate = RequestGate(CancelToken())
    for _ in range(3 * LEAST_REQUESTS):
        with pytest.raises(OSError, match="cut"), gate.request() as response:
            response.add(10**9)
            raise OSError("cut")
    assert gate.allowed == LEAST_REQUESTS


def test_those_that_wait_see_the_end_of_the_run() -> None:
    cancel = CancelToken()
    gate = RequestGate(cancel)
    errors: list[Exception] = []

    def wait() -> None:
        try:
            with gate.request():
                pass
        except Interrupted as error:
            errors.append(error)

    with ExitStack() as stack:
        for _ in range(LEAST_REQUESTS):
            stack.enter_context(gate.request())
        thread = threading.Thread(target=wait)
        thread.start()
        cancel.set()
        thread.join(20)
        assert not thread.is_alive()
    assert len(errors) == 1
