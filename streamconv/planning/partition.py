"""Assign shards to the processes that share one conversion."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from streamconv.errors import UsageError

_PART = re.compile(r"(\d{1,6})/(\d{1,6})")


@dataclass(frozen=True, slots=True)
class Partition:
    """A share of a conversion: part `number`, counting from 1, of `of` parts."""

    number: int = 1
    of: int = 1


def parse_partition(text: str) -> Partition:
    """Return the partition that `2/4` means. Raises UsageError."""
    match = _PART.fullmatch(text.strip())
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"{text!r} is not a part", "write 1/4 for the first of four")
    return Partition(int(match[1]), int(match[2]))


def assign_shards(sizes: Sequence[int], partition: Partition) -> tuple[int, ...]:
    """Return the indices of the shards that belong to a partition, in order.

    The largest remaining shard goes to the partition with the fewest bytes, the first of equals.
    So two partitions differ by one shard at most, and every process computes the same result.

    Args:
        sizes: Bytes of each shard.
        partition: The share to return.
    """
    nbytes = [0] * partition.of
    assigned: list[list[int]] = [[] for _ in range(partition.of)]
    for index in sorted(range(len(sizes)), key=lambda index: (-sizes[index], index)):
        smallest = nbytes.index(min(nbytes))
        nbytes[smallest] += sizes[index]
        assigned[smallest].append(index)
    return tuple(sorted(assigned[partition.number - 1]))
