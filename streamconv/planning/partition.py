"""Which shards each part of a run makes, where several processes share one conversion. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from streamconv.errors import UsageError

_PART = re.compile(r"(\d{1,6})/(\d{1,6})")


@dataclass(frozen=True, slots=True)
class Partition:
    """Which share of a conversion a run does: part `number`, counting from 1, of `of`."""

    number: int = 1
    of: int = 1


def parse_partition(text: str) -> Partition:
    """The part meant by `2/4`. Raises UsageError."""
    match = _PART.fullmatch(text.strip())
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"{text!r} is no part", "write 1/4 for the first of four")
    return Partition(int(match[1]), int(match[2]))


def assign_shards(sizes: Sequence[int], part: Partition) -> tuple[int, ...]:
    """The numbers of the shards that a part makes, in order; `sizes` are every shard's bytes.

    The largest shard left goes to the part that has the fewest bytes, the first one of equals. So
    no part has more than a shard more than another, and every part comes to the same result.
    """
    bytes_of = [0] * part.of
    dealt: list[list[int]] = [[] for _ in range(part.of)]
    for number in sorted(range(len(sizes)), key=lambda number: (-sizes[number], number)):
        least = bytes_of.index(min(bytes_of))
        bytes_of[least] += sizes[number]
        dealt[least].append(number)
    return tuple(sorted(dealt[part.number - 1]))
