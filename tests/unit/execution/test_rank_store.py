"""What ranks say to each other in the store of torchrun."""

import os

import pytest
from torch._C._distributed_c10d import HashStore

from streamconv.errors import RankFailed
from streamconv.execution.rank_store import (
    FAILURE,
    Counter,
    Failure,
    RankEntry,
    RankStore,
    map_store_errors,
)


@pytest.fixture
def ranks() -> list[RankStore]:
    """Three ranks at one store."""
    store = HashStore()
    return [RankStore(store, rank, 3) for rank in range(3)]


def test_no_two_keys_are_equal() -> None:
    """Not of two ranks either, whatever their numbers."""
    keys = [entry.key(rank) for entry in RankEntry for rank in (0, 1, 10, 11)]
    keys += [counter.value for counter in Counter] + [FAILURE]
    assert len(keys) == len(set(keys))


def test_a_rank_joins_beats_and_leaves(ranks: list[RankStore]) -> None:
    """Which says nothing of the others."""
    first, second, _ = ranks
    assert first.heartbeats(1) == 0
    assert first.process(1) == "never seen"
    second.join()
    second.beat()
    assert first.heartbeats(1) == 2
    assert first.process(1).startswith("process ")
    assert not first.has_left(1)
    second.leave()
    assert first.has_left(1)
    assert not first.has_left(0)
    assert first.heartbeats(2) == 0


def test_plans_are_published(ranks: list[RankStore]) -> None:
    """Ranks without one are known."""
    for number in (2, 0):
        ranks[number].publish_fingerprint(f"plan of {number}")
    assert ranks[1].unplanned() == [1]
    assert not ranks[1].have_all_planned()
    ranks[1].publish_fingerprint("another")
    assert ranks[0].have_all_planned()
    published = [ranks[0].fingerprint(rank) for rank in range(3)]
    assert published == ["plan of 0", "another", "plan of 2"]


@pytest.mark.parametrize("counter", list(Counter))
def test_ranks_are_counted(ranks: list[RankStore], counter: Counter) -> None:
    """In each counter by itself."""
    for number, rank in enumerate(ranks):
        assert ranks[0].count(counter) == number
        rank.increment(counter)
    assert {other: ranks[0].count(other) for other in Counter} == {
        other: 3 if other is counter else 0 for other in Counter
    }


def test_the_first_failure_is_kept(ranks: list[RankStore]) -> None:
    """So that all ranks end with the same one."""
    assert not ranks[0].has_failure()
    ranks[1].publish_failure(Failure(1, 'disk "é" is full', "free some"))
    ranks[2].publish_failure(Failure(2, "later"))
    assert ranks[0].has_failure()
    assert ranks[0].failure() == Failure(1, 'disk "é" is full', "free some")


@pytest.mark.parametrize("raw", ["", "{", "[]", "{}", '{"rank": []}', "[" * 10**5, "9" * 5000])
def test_a_failure_that_is_none(raw: str) -> None:
    """Another program of the same store ends the run as well, in words."""
    store = HashStore()
    store.set(FAILURE, raw)
    assert "something else" in RankStore(store, 0, 3).failure().message


def test_a_failure_about_a_path_that_is_not_utf8(ranks: list[RankStore]) -> None:
    failure = Failure(1, f"cannot read {os.fsdecode(b'caf' + bytes([0xE9]))}", "")
    ranks[1].publish_failure(failure)
    assert ranks[0].failure() == failure


def test_a_lost_store_is_a_failed_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the host that kept it; other errors pass."""
    monkeypatch.setenv("MASTER_ADDR", "host-7")
    with (
        pytest.raises(RankFailed, match=r"the store that torchrun keeps is lost: reset$") as lost,
        map_store_errors(),
    ):
        raise RuntimeError("reset\nby peer")
    assert "host-7" in lost.value.hint
    with pytest.raises(KeyError), map_store_errors():
        raise KeyError
