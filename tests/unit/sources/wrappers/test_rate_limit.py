"""A rate that is kept to, by all workers together."""

from pathlib import Path

from folders import qwen_tensors, two_shards, write_checkpoint
from memory_source import MemorySource

import streamconv
from streamconv.sources.base import Read
from streamconv.sources.wrappers.rate_limit import Throttle, ThrottledSource
from streamconv.system.cancellation import CancelToken


class RecordedWaits(CancelToken):
    """Records how long it would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)


def test_a_throttle_counts_the_bytes_of_all_workers() -> None:
    """Each waits until its bytes are due, after those of the others; idle time is not saved up."""
    now, cancel = [100.0], RecordedWaits()
    throttle = Throttle(1000, cancel, lambda: now[0])
    throttle.take(500)
    throttle.take(500)
    now[0] = 101.5
    throttle.take(0)
    throttle.take(2000)
    assert cancel.waits == [0.5, 1.0, 0.0, 2.0]


def test_every_byte_is_counted() -> None:
    """Of a batch at once, and of a file as many as were read."""
    cancel = RecordedWaits()
    memory = MemorySource({"w": ("U8", (4,), b"abcd")}, {"vocab.txt": b"0123456789"})
    source = ThrottledSource(memory, Throttle(64, cancel, lambda: 0.0))
    info, buffer = memory.checkpoint.tensors["w"], memoryview(bytearray(4))
    source.read([Read(info, 0, buffer), Read(info, 1, buffer[:2])])
    assert bytes(buffer) == b"bccd"
    other = memory.checkpoint.others[0]
    assert source.read_other(other, memoryview(bytearray(8)), 7) == 3
    assert cancel.waits == [6 / 64, 9 / 64]


def test_a_run_is_held_back(tmp_path: Path) -> None:
    """By `max_rate`, whatever the workers."""
    folder = write_checkpoint(tmp_path / "source", two_shards(qwen_tensors(hidden=64)))
    total = streamconv.plan(folder).read_bytes
    result = streamconv.merge(folder, tmp_path / "out", max_rate=f"{4 * total}/s", jobs=4)
    assert result.seconds >= 0.25
