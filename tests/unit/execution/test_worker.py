"""The bytes that a worker makes of a plan, compared with formulas over whole arrays."""

import gc
import weakref
from collections.abc import Sequence

import numpy as np
import pytest
from expert_memory import fused_transposed, hub_tensors, plan_of, source_of
from memory_output import MemorySink
from safetensors import deserialize
from xxhash import xxh3_128_hexdigest

from streamconv.errors import Interrupted
from streamconv.execution import worker as worker_module
from streamconv.execution.worker import Worker
from streamconv.sources.base import ByteRange
from streamconv.sources.wrappers.base import SourceWrapper
from streamconv.system.cancellation import CancelToken


def test_a_worker_makes_every_byte_of_the_plan() -> None:
    """Headers, copies and transposed experts, as another reader finds them."""
    tensors = hub_tensors()
    source, sink = source_of(tensors), MemorySink()
    plan = plan_of(source)
    assert len(plan.shards) > 1
    worker = Worker(plan, source, sink.prepare(plan), CancelToken())
    for piece in plan.pieces(range(len(plan.shards))):
        worker.write(piece)
    found = {
        name: np.frombuffer(fields["data"], np.uint16).reshape(fields["shape"])
        for shard in sink.shards.values()
        for name, fields in deserialize(bytes(shard))
    }
    wanted = fused_transposed(tensors)
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array)


def test_the_digest_of_a_piece_is_that_of_its_bytes() -> None:
    """It is recorded for each piece, in whatever order a worker makes them."""
    source, sink = source_of(hub_tensors()), MemorySink()
    plan = plan_of(source)
    worker = Worker(plan, source, sink.prepare(plan), CancelToken())
    pieces = list(plan.pieces(range(len(plan.shards))))
    for piece in reversed(pieces):
        digest = worker.write(piece)
        written = sink.shards[piece.shard][piece.offset : piece.offset + piece.nbytes]
        assert digest == xxh3_128_hexdigest(bytes(written))
        assert sink.digests[piece.shard, piece.offset] == digest
    assert len(sink.digests) == len(pieces)


class Announced(SourceWrapper):
    """A source that keeps what is announced to it."""

    def expect(self, ranges: Sequence[ByteRange]) -> None:
        self.ranges = ranges


def test_no_more_ranges_are_announced_than_fit_into_little_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A piece of tiny tensors is made of a hundred thousand ranges."""
    source = Announced(source_of(hub_tensors()))
    plan = plan_of(source_of(hub_tensors()))
    worker = Worker(plan, source, MemorySink().prepare(plan), CancelToken())
    pieces = tuple(plan.pieces())
    worker.expect(pieces)
    every = source.ranges
    assert len(every) == len(set(every)) > 7
    monkeypatch.setattr(worker_module, "MOST_EXPECTED", 7)
    worker.expect(pieces)
    assert source.ranges == every[:7]


def test_a_canceled_run_ends_within_a_piece() -> None:
    """Without its digest."""
    source, sink = source_of(hub_tensors()), MemorySink()
    plan, cancel = plan_of(source), CancelToken()
    worker = Worker(plan, source, sink.prepare(plan), cancel)
    cancel.set()
    with pytest.raises(Interrupted):
        worker.write(next(plan.pieces([0])))
    assert sink.digests == {}


def test_memory_is_free_when_a_worker_is_done() -> None:
    """At once, as what follows the run takes the same memory: nothing refers to itself."""
    source, sink = source_of(hub_tensors()), MemorySink()
    plan = plan_of(source)
    worker = Worker(plan, source, sink.prepare(plan), CancelToken())
    for piece in plan.pieces([0]):
        worker.write(piece)
    kept = weakref.ref(worker)
    gc.collect()
    gc.disable()
    try:
        del worker
        assert kept() is None
    finally:
        gc.enable()
