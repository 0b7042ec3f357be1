"""Assign shards to the processes that share one conversion."""

import heapq
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from streamconv.errors import UsageError, quoted

MAX_PARTS = 10**6
"""The largest number of parts is below this."""
_PART = re.compile(r"([0-9]{1,6})/([0-9]{1,6})")


@dataclass(frozen=True, slots=True)
class Partition:
    """A share of a conversion: part `number`, counting from 1, of `of` parts."""

    number: int = 1
    of: int = 1


def parse_partition(text: str) -> Partition:
    """Return the partition that `2/4` means. Raises UsageError."""
    match = _PART.fullmatch(text.strip())
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(
            f"cannot read the part {quoted(repr(text))}: it is not K/N with K from 1 to N",
            "write 1/4 for the first of four",
        )
    return Partition(int(match[1]), int(match[2]))


def check_verified(partition: Partition, dst: object) -> None:
    """Refuse to verify the result at `dst` after one of several parts. Raises UsageError."""
    if partition.of > 1:
        raise UsageError(
            "cannot verify a part: the other parts may not be written yet",
            f"run `streamconv finish {dst} --verify` when all parts are done",
        )


def parts_without(sizes: Sequence[int], missing: Collection[int], parts: int) -> list[str]:
    """Return the parts, as `2/4`, that have one of the missing shards.

    Args:
        sizes: Bytes of each shard.
        missing: Indices of shards.
        parts: How many parts there are.
    """
    return [
        f"{number}/{parts}"
        for number in range(1, parts + 1)
        if not set(missing).isdisjoint(assign_shards(sizes, Partition(number, parts)))
    ]


def assign_shards(sizes: Sequence[int], partition: Partition) -> tuple[int, ...]:
    """Return the indices of the shards that belong to a partition, in order.

    The largest remaining shard goes to the partition with the fewest bytes, the first of equals.
    So two partitions differ by the size of one shard at most, and every process
    computes the same result.

    Args:
        sizes: Bytes of each shard.
        partition: The share to return.
    """
    # bytes and number of each partition; the one with the fewest bytes is first
    heap = [(0, number) for number in range(1, partition.of + 1)]
    assigned = []
    for index in sorted(range(len(sizes)), key=lambda index: (-sizes[index], index)):
        nbytes, number = heap[0]
        heapq.heapreplace(heap, (nbytes + sizes[index], number))
        if number == partition.number:
            assigned.append(index)
    return tuple(sorted(assigned))
