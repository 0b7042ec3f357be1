"""Words that several tables and messages share."""

from collections.abc import Iterable

from streamconv.checkpoint.types import OtherFile
from streamconv.units import show_size


def counted(number: int, noun: str) -> str:
    """Return `1 shard` or `12,345 shards`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def copied_files(others: Iterable[OtherFile]) -> str:
    """Return how many files without tensors are copied, and their size."""
    copied = [other for other in others if not other.skip_reason]
    return f"{counted(len(copied), 'file')} copied, {show_size(sum(o.size for o in copied))}"
