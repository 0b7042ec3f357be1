"""The order of events, and what becomes of the output if a run ends early."""

from pathlib import Path

import pytest
from expert_memory import hub_tensors, plan_of, source_of
from memory_output import MemorySink

from streamconv.errors import Interrupted, NoSpace, SourceChanged
from streamconv.execution.events import Completed, Event, PieceWritten, Planned, Prepared
from streamconv.execution.executor import execute
from streamconv.sinks.journal import Finished
from streamconv.system.cancellation import CancelToken

SOURCE = source_of(hub_tensors())
PLAN = plan_of(SOURCE)
SHARDS = range(len(PLAN.shards))


def kinds(events: list[Event]) -> list[str]:
    """Return the names of the events, those of pieces once."""
    names = [type(event).__name__ for event in events]
    return list(dict.fromkeys(names))


def test_a_whole_run() -> None:
    """Every piece once; the result is complete one event before it is committed."""
    sink = MemorySink()
    events = list(execute(PLAN, SOURCE, sink, request=b"asked"))
    order = ["Planned", "Prepared", "PieceWritten", "ShareWritten", "Completed", "Committed"]
    assert kinds(events) == order
    pieces = [event.piece for event in events if isinstance(event, PieceWritten)]
    assert sorted(pieces, key=lambda p: (p.shard, p.offset)) == list(PLAN.pieces(SHARDS))
    assert Completed(Path("complete")) in events
    assert sink.calls == ["prepare", "complete", "commit"]
    assert sink.requests == [b"asked"]


def test_finished_shards_are_not_written_again() -> None:
    """The events count only what is missing."""
    sink = MemorySink({1: Finished(PLAN.shards[1].nbytes, ())})
    events = list(execute(PLAN, SOURCE, sink))
    (prepared,) = (event for event in events if isinstance(event, Prepared))
    assert prepared.finished == {1}
    assert prepared.missing == tuple(number for number in SHARDS if number != 1)
    assert prepared.left_bytes == sum(shard.nbytes for shard in PLAN.shards) - PLAN.shards[1].nbytes
    assert not any(sink.shards[1])
    assert {event.piece.shard for event in events if isinstance(event, PieceWritten)} == {
        *prepared.missing
    }


def test_a_share_is_not_committed() -> None:
    """Another process does that."""
    sink = MemorySink()
    events = list(execute(PLAN, SOURCE, sink, [0], commits=False))
    assert kinds(events) == ["Planned", "Prepared", "PieceWritten", "ShareWritten"]
    assert {event.piece.shard for event in events if isinstance(event, PieceWritten)} == {0}
    assert sink.calls == ["prepare", "release"]


@pytest.mark.parametrize("kind", [Prepared, PieceWritten, Completed])
def test_a_closed_run_keeps_finished_shards(kind: type[Event]) -> None:
    """Whenever the caller stops to listen; its threads are canceled, too."""
    sink, cancel = MemorySink(), CancelToken()
    events = execute(PLAN, SOURCE, sink, cancel=cancel)
    while not isinstance(next(events), kind):
        pass
    events.close()
    assert sink.calls[-1] == "abort, keep=True"
    assert "commit" not in sink.calls
    if kind is PieceWritten:
        assert cancel.is_set()


def test_nothing_is_prepared_before_the_plan_is_seen() -> None:
    """A caller may refuse it."""
    sink = MemorySink()
    events = execute(PLAN, SOURCE, sink)
    assert next(events) == Planned(PLAN)
    events.close()
    assert sink.calls == []


@pytest.mark.parametrize(
    ("error", "keep"), [(NoSpace("full"), True), (SourceChanged("another"), False)]
)
def test_a_failure_keeps_finished_shards_of_the_same_source(error: Exception, keep: bool) -> None:
    """Those of a source that has changed are worth nothing."""
    sink = MemorySink()
    sink.complete_error = error
    with pytest.raises(type(error)):
        list(execute(PLAN, SOURCE, sink))
    assert sink.calls[-1] == f"abort, keep={keep}"


def test_a_canceled_run_is_interrupted() -> None:
    """From outside, while it writes."""
    sink, cancel = MemorySink(), CancelToken()
    cancel.set()
    with pytest.raises(Interrupted):
        list(execute(PLAN, SOURCE, sink, cancel=cancel))
    assert sink.calls == ["prepare", "abort, keep=True"]
