"""Shards are dealt out: each once, evenly, and the same by whoever asks."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamconv.errors import UsageError
from streamconv.planning.partition import Partition, assign_shards, parse_partition


@given(st.lists(st.integers(0, 10**12), max_size=60), st.integers(1, 9))
def test_every_shard_is_made_once(sizes: list[int], of: int) -> None:
    """No part has more than the largest shard more than another."""
    parts = [assign_shards(sizes, Partition(number, of)) for number in range(1, of + 1)]
    assert sorted(number for part in parts for number in part) == list(range(len(sizes)))
    loads = [sum(sizes[number] for number in part) for part in parts]
    assert max(loads) - min(loads) <= max(sizes, default=0)
    assert all(list(part) == sorted(part) for part in parts)


def test_large_shards_are_spread() -> None:
    """However they lie."""
    assert [assign_shards([9, 1, 9, 1, 1], Partition(k, 2)) for k in (1, 2)] == [(0, 1, 4), (2, 3)]


def test_parse_part() -> None:
    """Counted from 1."""
    assert parse_partition("2/4") == Partition(2, 4)
    for text in ("0/4", "5/4", "1", "a/b", "1/0", "-1/2"):
        with pytest.raises(
            UsageError, match=r"^cannot read the part .*: it is not K/N with K from 1 to N$"
        ):
            parse_partition(text)


@pytest.mark.parametrize(
    "text", [f"1/{'9' * 7}", f"{'9' * 5000}/1", "\u0661/\u0662", "nan", "1/2\n\x1b[0m/"]
)
def test_absurd_parts_are_refused_in_one_line(text: str) -> None:
    """Numbers of more than six digits, other digits, escapes."""
    with pytest.raises(
        UsageError, match=r"^cannot read the part .*: it is not K/N with K from 1 to N$"
    ) as caught:
        parse_partition(text)
    assert len(caught.value.message) < 300
    assert caught.value.message.isprintable()


def test_a_million_parts_of_many_shards() -> None:
    """Each shard goes to a part of its own, in about a second."""
    begin = time.monotonic()
    assert assign_shards([7] * 70_000, Partition(70_000, 999_999)) == (69_999,)
    assert assign_shards([7] * 70_000, Partition(70_001, 999_999)) == ()
    assert time.monotonic() - begin < 20
