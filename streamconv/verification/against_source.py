"""The comparison of an output with its source: every tensor, expert and file, bit for bit.

Tensors are compared under the names that the hub has for them, whatever the two forms call them. A
name that only one side has is a difference. Memory of each of `jobs` threads: a block of 4 MiB of
the source, or one expert of one weight if its axes are in another order, and a smaller one of the
output.
"""

from collections.abc import Iterator
from contextlib import closing

from streamconv.sources.base import ByteRange, Source, expect
from streamconv.sources.wrappers.fetch_ahead import FetchAhead
from streamconv.system.cancellation import CancelToken
from streamconv.system.lookahead import with_lookahead
from streamconv.system.worker_threads import map_unordered
from streamconv.verification.compare import Comparer, Unequal
from streamconv.verification.compared_files import ComparedShards
from streamconv.verification.comparison_tasks import FilePair, RegionPair, Task, comparison_tasks
from streamconv.verification.expected_config import ExpectedConfig
from streamconv.verification.regions import Region
from streamconv.verification.result import (
    Difference,
    FileVerified,
    VerifyEvent,
    VerifyProgress,
    VerifyStarted,
)
from streamconv.verification.sides import EVERYTHING, Sample, Side

READ_AHEAD_BYTES = 64 * 2**20
"""Bytes of the output that are asked for ahead, with as many of the source."""
FILE_BYTES = 2**18
"""Size of the blocks in which files without tensors are read."""


def compare(
    source: Side,
    output: Side,
    *,
    jobs: int,
    cancel: CancelToken,
    config: ExpectedConfig | None = None,
    sample: Sample = EVERYTHING,
) -> Iterator[VerifyEvent]:
    """Compare `output` with the conversion of `source`.

    Args:
        source: The source, with the casts that the output records.
        output: The checkpoint to verify.
        jobs: Number of threads.
        cancel: Ends the comparison with Interrupted if it is set.
        config: What config.json has to say; None if it has to be the source's.
        sample: The part of the bytes that is compared.

    Yields:
        First VerifyStarted, then differences, progress and files in any order.

    Raises:
        IOFailed: Reading failed.
        BadCheckpoint: A file changed meanwhile.
    """
    checkpoint = output.source.checkpoint
    others = sum(other.size for other in checkpoint.others if not other.skip_reason)
    total = int(checkpoint.total_bytes * sample.share) + others
    yield VerifyStarted(total, tuple(file.name for file in checkpoint.files))
    shards = ComparedShards(checkpoint)
    tasks = comparison_tasks(source, output, config, sample)
    with FetchAhead(source.source) as fetched_source, FetchAhead(output.source) as fetched_output:
        found = map_unordered(
            with_lookahead(tasks, _nbytes, READ_AHEAD_BYTES),
            jobs,
            lambda: _Worker(fetched_source, fetched_output),
            _Worker.carry_out,
            cancel,
        )
        with closing(found):
            for event in found:
                yield event
                if isinstance(event, VerifyProgress):
                    yield from shards.add(event)
    yield from shards.rest()


class _Worker:
    """The comparisons of one thread, and its memory."""

    def __init__(self, source: Source, output: Source) -> None:
        self._source = source
        self._output = output
        self._comparer = Comparer(source, output)
        self._buffers = [memoryview(bytearray(FILE_BYTES)) for _ in range(2)]

    def carry_out(self, tasks: tuple[Task, tuple[Task, ...]]) -> Iterator[VerifyEvent]:
        """Do the first task, while both sides fetch the bytes of the others.

        Yields the differences, and then the progress.
        """
        task, coming = tasks
        pairs = [each for each in coming if isinstance(each, RegionPair)]
        expect(self._source, [each for pair in pairs for each in _ranges(pair.source)])
        expect(self._output, [each for pair in pairs for each in _ranges(pair.output)])
        if isinstance(task, Difference):
            yield task
        elif isinstance(task, RegionPair):
            unequal = self._comparer.compare(task.source, task.output, task.split)
            if unequal is not None:
                yield from _differences(task, unequal)
            yield from _progress(task.output)
        else:
            if not self._is_equal(task):
                yield Difference(task.output.name, "differs from the source's file of that name")
            name, size = task.output.name, task.output.size
            yield VerifyProgress(size, name, name)
            yield FileVerified(name, size, size)

    def _is_equal(self, files: FilePair) -> bool:
        """Return True if both files have the same bytes."""
        source_buffer, output_buffer = self._buffers
        position = 0
        while count := self._output.read_other(files.output, output_buffer, position):
            source_count = self._source.read_other(files.source, source_buffer, position)
            if source_buffer[:source_count] != output_buffer[:count]:
                return False
            position += count
        return position == files.source.size


def _progress(region: Region) -> Iterator[VerifyProgress]:
    """Yield the bytes of a region, by the files that they are in."""
    files: dict[str, int] = {}
    for run in region.runs:
        files[run.info.file] = files.get(run.info.file, 0) + run.nbytes
    return (VerifyProgress(n, region.runs[0].info.name, file) for file, n in files.items())


def _nbytes(task: Task) -> int:
    """Return how many bytes of tensors in the output a task compares; 0 for other tasks."""
    return task.output.nbytes if isinstance(task, RegionPair) else 0


def _ranges(region: Region) -> Iterator[ByteRange]:
    """Yield the bytes of a region, in order."""
    return (ByteRange(run.info, run.start, run.start + run.nbytes) for run in region.runs)


def _differences(pair: RegionPair, unequal: Unequal) -> Iterator[Difference]:
    """Yield a difference for each projection of an expert in which elements differ."""
    amount = f"{unequal.differing:,} of {unequal.of:,} elements"
    for position in unequal.positions or (0,):
        yield Difference(
            _tensor(pair.output, position),
            f"differs from {_tensor(pair.source, position)} of the source ({amount})",
            pair.expert,
            pair.tokens[position] if pair.tokens else "",
        )


def _tensor(region: Region, position: int) -> str:
    """Return the tensor that holds a position of the split axis; all do if there is only one."""
    names = list(dict.fromkeys(run.info.name for run in region.runs))
    return names[position if len(names) > 1 else 0]
