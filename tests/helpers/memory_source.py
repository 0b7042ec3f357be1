"""A source in memory, which keeps a log of what is asked of it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from streamconv.checkpoint.types import Checkpoint, OtherFile, SourceFile, TensorInfo
from streamconv.formats.safetensors import DTYPE_BITS
from streamconv.sources.base import Read

Contents = Mapping[str, tuple[str, tuple[int, ...], bytes]]
"""Dtype, shape and bytes of each tensor, by its name."""


class MemorySource:
    """A source of these tensors, all of them in one file, and of other files."""

    def __init__(
        self,
        tensors: Contents,
        others: Mapping[str, bytes] | None = None,
        *,
        location: str = "memory",
        file: str = "model.safetensors",
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.calls: list[tuple[Any, ...]] = []
        """The name of every call, and for a read the names, starts and sizes."""
        self._others = others or {}
        self._data = {name: data for name, (_, _, data) in tensors.items()}
        infos: dict[str, TensorInfo] = {}
        end = 0
        for name, (dtype, shape, data) in tensors.items():
            assert len(data) == math.prod(shape) * DTYPE_BITS[dtype] // 8
            infos[name] = TensorInfo(name, dtype, shape, file, end, len(data))
            end += len(data)
        self.checkpoint = Checkpoint(
            location=location,
            tensors=infos,
            files=(SourceFile(file, end, "0"),),
            others=tuple(OtherFile(name, len(data)) for name, data in self._others.items()),
            config=config or {},
            record=None,
            total_bytes=end,
        )

    def read(self, reads: Sequence[Read]) -> None:
        self.calls.append(("read", [(r.info.name, r.start, len(r.buffer)) for r in reads]))
        for read in reads:
            data = memoryview(self._data[read.info.name])
            read.buffer[:] = data[read.start : read.start + len(read.buffer)]

    def read_other(self, other: OtherFile, buffer: memoryview, start: int) -> int:
        self.calls.append(("read_other", other.name, start))
        data = self._others[other.name][start : start + len(buffer)]
        buffer[: len(data)] = data
        return len(data)

    def check_unchanged(self) -> None:
        self.calls.append(("check_unchanged",))

    def close(self) -> None:
        self.calls.append(("close",))
