"""How many requests are in flight, by what was measured of the link to a remote source.

A request of `size` bytes that is alone takes the latency and the time of its bytes. While it does,
a link that is kept full carries rate * seconds bytes: the bandwidth-delay product. So that many
requests of this size are needed, and some more, as only more of them show that a link has room.

There are never more than the plan has workers, whose memory it counts.
"""

import math
from dataclasses import dataclass

LEAST_REQUESTS = 4
"""Requests in flight while nothing is known of a link, and on the slowest ones."""
HEADROOM = 1.5
"""How many times what a link seems to need is in flight: a rate that grows is then seen."""


@dataclass(frozen=True, slots=True)
class Link:
    """A link to a server, as the requests so far have shown it."""

    rate: float
    """Bytes a second of all requests together."""
    latency: float
    """Seconds from a request to the first byte of its response."""
    alone: float
    """Bytes a second of the fastest response after its first byte: the rate of all if they share
    one link, less if the server limits each of them."""


def requests_in_flight(link: Link, size: float) -> int:
    """Return how many requests are worth having in flight.

    Args:
        link: What was measured of the link.
        size: Bytes of a request.
    """
    seconds = request_seconds(link, size)
    return max(LEAST_REQUESTS, math.ceil(HEADROOM * link.rate * seconds / size))


def request_seconds(link: Link, size: float) -> float:
    """Return the seconds that a request of `size` bytes takes if it is alone."""
    return link.latency + size / link.alone
