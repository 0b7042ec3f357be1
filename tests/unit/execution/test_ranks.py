"""A group of ranks at a store in memory: what they agree on, and how a failure ends them all."""

import re
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from folders import qwen_tensors, two_shards, write_checkpoint
from torch._C._distributed_c10d import HashStore

import streamconv
from streamconv.errors import Interrupted, IOFailed, PlanRefused, RankFailed
from streamconv.execution import liveness, rank_failures, ranks
from streamconv.execution.events import Planned, Prepared
from streamconv.execution.rank_store import Failure, RankEntry, RankStore
from streamconv.execution.ranks import RankGroup
from streamconv.planning.manifest import fingerprint
from streamconv.system.cancellation import CancelToken


@pytest.fixture(scope="module")
def src(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of four layers."""
    tensors = qwen_tensors(layers=4, experts=5, hidden=16, intermediate=12)
    folder = tmp_path_factory.mktemp("ranks") / "source"
    return write_checkpoint(folder, two_shards(tensors), {"model_type": "qwen3_moe"})


def group(store: HashStore, rank: int, size: int = 2) -> RankGroup:
    return RankGroup(store, rank, size, CancelToken())


def test_ranks_that_plan_otherwise_are_refused(src: Path) -> None:
    """Before anything is written."""
    store = HashStore()
    plans = [streamconv.plan(src, max_shard_size=size) for size in ("4kB", "9kB")]
    with group(store, 0) as first, group(store, 1) as second:
        store.set(RankEntry.FINGERPRINT.key(1), fingerprint(plans[1]))
        with pytest.raises(PlanRefused, match=r"rank 1 .* has made another plan than rank 0"):
            first.synchronize(Planned(plans[0]))
        with pytest.raises(PlanRefused, match="fingerprint"):
            second.synchronize(Planned(plans[1]))


def test_a_rank_that_cannot_plan_ends_the_others(
    src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its reason, though they wait for its plan; as if one host does not see the source."""
    monkeypatch.setattr(rank_failures, "NOTICE_SECONDS", 0.1)
    store = HashStore()
    plan = streamconv.plan(src)
    with group(store, 0) as first, group(store, 1) as second:
        second.failures.report(IOFailed("there is no such folder", "mount it"))
        with pytest.raises(RankFailed, match=r"rank 1 .* failed: there is no such folder") as ended:
            first.synchronize(Planned(plan))
        assert ended.value.hint == "mount it"


def test_a_silent_rank_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the one that watches it, to all."""
    monkeypatch.setattr(liveness, "HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr(liveness, "SILENT_SECONDS", 0.3)
    monkeypatch.setattr(rank_failures, "NOTICE_SECONDS", 0.1)
    store = HashStore()
    everyone = [group(store, rank, 3) for rank in range(3)]
    for rank in everyone:
        rank.__enter__()
    time.sleep(0.1)
    everyone[2]._watch.stop()
    deadline = time.monotonic() + 10
    while everyone[0].failures.first() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    for rank in everyone[:2]:
        with pytest.raises(RankFailed, match=r"rank 2 \(process \d+ on .*\) failed: it has been"):
            rank.failures.raise_first()
    for rank in everyone:
        rank.__exit__()


def test_a_failure_ends_the_waits_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a rank from which no event comes meanwhile, and of one given up though it lives."""
    monkeypatch.setattr(liveness, "HEARTBEAT_SECONDS", 0.02)
    store = HashStore()
    tokens = [CancelToken() for _ in range(3)]
    with ExitStack() as working:
        everyone = [
            working.enter_context(RankGroup(store, rank, 3, token))
            for rank, token in enumerate(tokens)
        ]
        RankStore(store, 0, 3).publish_failure(Failure(2, "it has been silent"))
        for rank, token in zip(everyone, tokens, strict=True):
            begin = time.monotonic()
            with pytest.raises(Interrupted) as ended:
                token.wait(60)
            assert time.monotonic() - begin < 20
            cause = rank.failures.report(ended.value)
            assert isinstance(cause, RankFailed)
            assert re.search(r"rank 2 \(process \d+ on .*\) failed: it has been", cause.message)


def test_a_rank_that_never_plans(src: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is not waited for without end."""
    monkeypatch.setattr(ranks, "PLAN_SECONDS", 0.2)
    plan = streamconv.plan(src)
    with (
        group(HashStore(), 0) as alone,
        pytest.raises(IOFailed, match=r"the ranks \[1\].*\[1\] have never started"),
    ):
        alone.synchronize(Planned(plan))


@pytest.mark.parametrize("late", [False, True])
def test_a_rank_looks_for_the_lock_of_the_first(
    late: bool, src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits a while until its host shows the lock, and is refused if that shows another one."""
    monkeypatch.setattr(ranks, "LOCK_SECONDS", 0.3)
    monkeypatch.setattr(RankGroup, "_connect_to_next", lambda _: None)
    store, plan = HashStore(), streamconv.plan(src)
    seen = iter([b"", b"", b"first"])

    def read_lock() -> bytes:
        return next(seen) if late else b"other"

    first = RankGroup(store, 0, 2, CancelToken(), read_lock=lambda: b"first")
    second = RankGroup(store, 1, 2, CancelToken(), read_lock=read_lock)
    with first, second:
        store.set(RankEntry.FINGERPRINT.key(1), fingerprint(plan))
        first.synchronize(Planned(plan))
        ended: list[RankFailed] = []

        def prepare() -> None:
            try:
                first.synchronize(Prepared(plan, frozenset(), ()))
            except RankFailed as error:
                ended.append(error)

        writing = threading.Thread(target=prepare, daemon=True)
        writing.start()
        if late:
            second.synchronize(Planned(plan))
            assert next(seen, None) is None
        else:
            wanted = r"rank 1 .* does not see what rank 0 .* has made"
            with pytest.raises(IOFailed, match=wanted) as refused:
                second.synchronize(Planned(plan))
            assert writing.is_alive()  # nothing is written until all have found it
            second.failures.report(refused.value)
        writing.join(10)
        assert not writing.is_alive()
        assert bool(ended) is not late
