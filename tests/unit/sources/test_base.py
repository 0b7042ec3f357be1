"""Ranges are joined as they are stored, and announced only to a source that listens."""

from collections.abc import Sequence

from memory_source import MemorySource

from streamconv.sources.base import ByteRange, expect, merged, read_whole

TENSORS = {name: ("U8", (4,), name.encode() * 4) for name in "abc"}


class Listening(MemorySource):
    """Keeps what is announced to it."""

    announced: Sequence[ByteRange] = ()

    def expect(self, ranges: Sequence[ByteRange]) -> None:
        self.announced = ranges


def test_adjacent_ranges_are_one() -> None:
    """In any order; a gap between them, or another file, ends one."""
    infos = MemorySource(TENSORS).checkpoint.tensors
    a, b, c = (infos[name] for name in "abc")
    ranges = [ByteRange(b, 0, 4), ByteRange(a, 2, 4), ByteRange(c, 1, 4)]
    assert list(merged(ranges)) == [("model.safetensors", 2, 8), ("model.safetensors", 9, 12)]
    other = a._replace(file="other", offset=8)
    assert list(merged([ByteRange(other, 0, 4), ByteRange(b, 0, 4)])) == [
        ("model.safetensors", 4, 8),
        ("other", 8, 12),
    ]
    assert list(merged([])) == []


def test_reads_are_announced_if_the_source_listens() -> None:
    plain, listening = MemorySource(TENSORS), Listening(TENSORS)
    ranges = [ByteRange(plain.checkpoint.tensors["a"], 0, 4)]
    expect(plain, ranges)
    expect(listening, ranges)
    assert plain.calls == []
    assert listening.announced == ranges


def test_a_small_tensor_is_read_whole() -> None:
    source = MemorySource(TENSORS)
    assert read_whole(source)(source.checkpoint.tensors["b"]) == b"bbbb"
