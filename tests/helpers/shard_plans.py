"""Plans of shards of given sizes, and file operations for the tests of the output."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from streamconv.catalog.catalog import default_catalog
from streamconv.catalog.families import HUB_NAMES
from streamconv.catalog.presets import Prefixes, find_preset
from streamconv.checkpoint.layout_record import Record
from streamconv.checkpoint.types import Checkpoint, OtherFile
from streamconv.detection.detect import Detected
from streamconv.planning.dcp_shards import Dcp
from streamconv.planning.memory import Memory
from streamconv.planning.plan import Plan
from streamconv.planning.safetensors_shards import Safetensors
from streamconv.planning.shards import Shard, ShardFormat
from streamconv.planning.steps import make_steps
from streamconv.planning.target import Target
from streamconv.sources.base import Read
from streamconv.system.file_ops import Files
from streamconv.system.linux_file_ops import LinuxFiles

FILE_OPERATIONS = pytest.mark.parametrize(
    "kind",
    [
        Files,
        pytest.param(
            LinuxFiles,
            marks=pytest.mark.skipif(sys.platform != "linux", reason="calls that only Linux has"),
        ),
    ],
)
RECORD = Record("hub", None, {})
FORMATS: dict[str, tuple[ShardFormat, str, set[str]]] = {
    "safetensors": (
        Safetensors(RECORD),
        "model-{:05d}-of-00002.safetensors",
        {"model.safetensors.index.json", "streamconv.json"},
    ),
    "dcp": (Dcp(Prefixes(), None, {}), "__0_{}.distcp", {".metadata"}),
    "mindspeed": (
        Dcp(Prefixes(), find_preset("mindspeed"), {}),
        "release/__0_{}.distcp",
        {"release/.metadata", "latest_checkpointed_iteration.txt"},
    ),
}
"""Each format of shards, the names of its shards, and the files that it adds to them."""


def plan_of(
    sizes: list[int],
    location: Path,
    written: str = "safetensors",
    others: tuple[OtherFile, ...] = (),
) -> Plan:
    """Build a plan of empty shards of these sizes, from the source at `location`."""
    shard_format, pattern, _ = FORMATS[written]
    shards = [Shard(pattern.format(k), (), size, size) for k, size in enumerate(sizes)]
    source = Detected(default_catalog(), None, "", HUB_NAMES, None, (), {})
    target = Target("hub", "", HUB_NAMES, {}, None, {})
    return Plan(
        checkpoint=Checkpoint(
            str(location), {}, (), others, {}, None, 0, local_paths=(str(location),)
        ),
        source=source,
        target=target,
        steps=make_steps(source, target, None),
        format=shard_format,
        shards=tuple(shards),
        record=RECORD,
        max_shard_bytes=max(sizes),
        memory=Memory(0, 1, 0, 4096, 0, None),
    )


class EmptySource:
    """A source without tensors, whose other files are given."""

    def __init__(self, checkpoint: Checkpoint, others: dict[str, bytes] | None = None) -> None:
        self.checkpoint = checkpoint
        self._others = others or {}

    def read(self, reads: Sequence[Read]) -> None:
        """Fail: there is nothing to read."""
        raise AssertionError

    def read_other(self, other: OtherFile, buffer: memoryview, start: int) -> int:
        """Read from the bytes of an other file."""
        data = self._others[other.name][start : start + len(buffer)]
        buffer[: len(data)] = data
        return len(data)

    def check_unchanged(self) -> None:
        """Do nothing: the source cannot change."""

    def close(self) -> None:
        """Do nothing: nothing is open."""


class FailingWrites(Files):
    """A disk on which every write to a shard fails."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def write(self, fd: int, data: memoryview, offset: int) -> None:
        raise OSError(self.number, os.strerror(self.number))


def names(folder: Path) -> list[str]:
    """List a folder, sorted."""
    return sorted(path.name for path in folder.iterdir())
