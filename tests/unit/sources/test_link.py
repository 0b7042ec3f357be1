"""How many requests a link needs: the oracle is the rate that so many requests reach on it."""

import pytest

from streamconv.sources.link import LEAST_REQUESTS, Link, requests_in_flight

MIB = 2**20
LINKS = [(rate * 1e6, ms / 1000) for rate in (100, 300, 1000) for ms in (1, 20, 100)]


def reached(requests: int, rate: float, latency: float, size: int, limit: float) -> float:
    """The bytes a second of so many requests, each sent as soon as the one before it has ended.

    They share `rate`, and each gets `limit` at most.
    """
    unshared = requests * size / (latency + size / limit)
    return min(rate, unshared)


@pytest.mark.parametrize("size", [MIB // 4, 2 * MIB, 8 * MIB])
@pytest.mark.parametrize(("rate", "latency"), LINKS)
def test_a_link_is_kept_full(rate: float, latency: float, size: int) -> None:
    count = requests_in_flight(Link(rate, latency, rate), size)
    assert reached(count, rate, latency, size, limit=rate) == rate
    if count > LEAST_REQUESTS:
        assert reached(count // 2 - 1, rate, latency, size, limit=rate) < rate


@pytest.mark.parametrize("limit", [10e6, 50e6])
def test_a_limit_of_each_response_is_made_up_for(limit: float) -> None:
    count = LEAST_REQUESTS
    for _ in range(10):
        rate = reached(count, 300e6, 0.02, 8 * MIB, limit)
        count = requests_in_flight(Link(rate, 0.02, limit), 8 * MIB)
    assert reached(count, 300e6, 0.02, 8 * MIB, limit) == 300e6
    assert count <= 2 * 300e6 / limit + 2


def test_more_are_needed_if_they_are_small_or_the_way_is_long() -> None:
    link = Link(1e9, 0.02, 1e9)
    assert requests_in_flight(link, MIB) > requests_in_flight(link, 8 * MIB)
    assert requests_in_flight(Link(1e9, 0.1, 1e9), MIB) > requests_in_flight(link, MIB)


def test_a_link_that_shows_nothing_gets_the_least() -> None:
    assert requests_in_flight(Link(0.0, 0.0, 1e9), MIB) == LEAST_REQUESTS
