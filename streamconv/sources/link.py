"""How many requests to keep in flight, from measurements of the link to a remote source.

A single request of `size` bytes takes the latency and the time to transfer its bytes. In this time,
a full link carries rate * seconds bytes, the bandwidth-delay product. So rate * seconds / size
requests keep the link full. Some more are sent, because only they show if the link has room.

There are never more than the plan has workers, whose memory it counts.
"""

import math
from dataclasses import dataclass

LEAST_REQUESTS = 4
"""Requests in flight while nothing is known of a link, and on the slowest ones."""
HEADROOM = 1.5
"""Requests in flight, as a multiple of those that a link seems to need: they show if it grows."""


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
