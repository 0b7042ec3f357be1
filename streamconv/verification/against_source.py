"""The comparison of an output with its source: every tensor, expert and file, bit for bit.

Tensors are compared under the names that the hub has for them, whatever the two forms call them. A
name that only one side has is a difference. Memory of each of `jobs` threads: two blocks of 4 MiB,
and one expert of one weight if its axes are in another order.
"""

from collections.abc import Iterator

from streamconv.sources.base import Source
from streamconv.system.cancellation import CancelToken
from streamconv.system.worker_threads import map_unordered
from streamconv.verification.compare import Comparer, Unequal
from streamconv.verification.comparison_tasks import FilePair, RegionPair, Task, comparison_tasks
from streamconv.verification.expected_config import ExpectedConfig
from streamconv.verification.regions import Region
from streamconv.verification.result import Difference, VerifyEvent, VerifyProgress, VerifyStarted
from streamconv.verification.sides import EVERYTHING, Sample, Side

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
        First VerifyStarted, then differences and progress in any order.

    Raises:
        IOFailed: Reading failed.
        BadCheckpoint: A file changed meanwhile.
    """
    checkpoint = output.source.checkpoint
    others = sum(other.size for other in checkpoint.others if not other.skip_reason)
    yield VerifyStarted(int(checkpoint.total_bytes * sample.share) + others)
    yield from map_unordered(
        comparison_tasks(source, output, config, sample),
        jobs,
        lambda: _Worker(source.source, output.source),
        _Worker.carry_out,
        cancel,
    )


class _Worker:
    """The comparisons of one thread, and its memory."""

    def __init__(self, source: Source, output: Source) -> None:
        self._source = source
        self._output = output
        self._comparer = Comparer(source, output)
        self._buffers = [memoryview(bytearray(FILE_BYTES)) for _ in range(2)]

    def carry_out(self, task: Task) -> Iterator[VerifyEvent]:
        """Compare what the task names; yield the differences, and the progress at its end."""
        if isinstance(task, Difference):
            yield task
        elif isinstance(task, RegionPair):
            unequal = self._comparer.compare(task.source, task.output, task.split)
            if unequal is not None:
                yield from _differences(task, unequal)
            yield VerifyProgress(task.output.nbytes, task.output.runs[0].info.name)
        else:
            if not self._is_equal(task):
                yield Difference(task.output.name, "differs from the source's file of that name")
            yield VerifyProgress(task.output.size, task.output.name)

    def _is_equal(self, files: FilePair) -> bool:
        """Return True if both files have the same bytes."""
        source_buffer, output_buffer = self._buffers
        position = 0
        while count := self._output.read_other(files.output, output_buffer, position):
            there = self._source.read_other(files.source, source_buffer, position)
            if source_buffer[:there] != output_buffer[:count]:
                return False
            position += count
        return position == files.source.size


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
