"""Find the bytes that all workers hold together: those of a run, or of its verification.

If there are few pieces or regions, buffers are filled only as far as the largest of these go.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from streamconv.planning.compared_regions import MOST_REGIONS, Regions
from streamconv.planning.tables import in_pages
from streamconv.units import HUGE_PAGE_BYTES

IDLE_BYTES = 2**18
"""Memory of a thread of a verification for which there is no region."""
VERIFY_SOURCE_BLOCK_BYTES = 4 * 2**20
"""The block of the source that each thread of a verification holds; smaller tensors take less."""
VERIFY_OUTPUT_BLOCK_BYTES = 2**20
"""The same of the output."""
VERIFY_SCRATCH_BYTES = 2**21
"""Further memory of a thread that verifies: panels and results of comparisons, its stack."""
VERIFY_COPY_SCRATCH_BYTES = 2**20
"""The same of a thread that compares what keeps its order."""
VERIFY_LEAST_SCRATCH_BYTES = 3 * 2**18
"""What it takes of that if what it compares is small."""


@dataclass(frozen=True, slots=True)
class PieceNeeds:
    """What one worker needs for one piece."""

    nbytes: int
    """Bytes of output."""
    source_buffer: int | None
    """Bytes of input that are in memory at once; None if that is not known."""


def needed_workers(jobs: int, pieces: int) -> int:
    """Return how many workers write a number of pieces in as many rounds as `jobs` of them would.

    Ten pieces take two rounds of eight workers, and two of five.
    """
    rounds = -(-pieces // jobs)
    return -(-pieces // rounds) if rounds else 1


def buffers_bytes(
    jobs: int, source_buffer: int, staging: int, pieces: Sequence[PieceNeeds] | None
) -> int:
    """Return the bytes of the buffers of all workers of a run, for input and output.

    A worker keeps its buffers from piece to piece.

    Args:
        jobs: Number of workers.
        source_buffer: Bytes of input of one unit of the widest step.
        staging: Bytes of output that a worker writes at once.
        pieces: The pieces if they are few; None for more than workers.
    """
    if pieces is None:
        return jobs * (in_pages(source_buffer) + staging)
    inputs = (source_buffer if p.source_buffer is None else p.source_buffer for p in pieces)
    outputs = (p.nbytes for p in pieces)
    return _touched(jobs, source_buffer, inputs) + _touched(jobs, staging, outputs)


def verifying_bytes(jobs: int, source_buffer: int, regions: Regions, other: int) -> int:
    """Return the bytes of all threads of a verification.

    Args:
        jobs: Number of threads.
        source_buffer: Bytes of input of one unit of the widest step; 0 if nothing is transposed.
        regions: What is compared.
        other: Further bytes of each thread, for casts and for reading.
    """
    busy = min(jobs, regions.count)
    converted, others = (
        # the sizes beyond those that are listed are not known: the last one counts for each
        [*sizes, *(sizes[-1:] * (busy - MOST_REGIONS))] if len(sizes) == MOST_REGIONS else [*sizes]
        for sizes in (regions.converted, regions.others)
    )
    in_blocks = [min(size, VERIFY_SOURCE_BLOCK_BYTES) for size in (*converted, *others)]
    # a region that is transposed is in memory as a whole
    whole = converted if source_buffer else in_blocks[: len(converted)]
    held = (in_pages(size) for size in (*whole, *in_blocks[len(whole) :]))
    blocks = [min(size, VERIFY_OUTPUT_BLOCK_BYTES) for size in (*converted, *others)]
    most_scratch = VERIFY_SCRATCH_BYTES if source_buffer else VERIFY_COPY_SCRATCH_BYTES
    scratch = (min(most_scratch, VERIFY_LEAST_SCRATCH_BYTES + 2 * size) for size in blocks)
    own = sum(sum(_largest(busy, sizes)) for sizes in (held, blocks, scratch))
    return own + busy * other + (jobs - busy) * IDLE_BYTES


def _largest(count: int, sizes: Iterable[int]) -> list[int]:
    """Return the largest sizes, at most so many."""
    return sorted(sizes, reverse=True)[:count]


def _touched(jobs: int, buffer: int, needs: Iterable[int]) -> int:
    """Return the bytes that are written to in buffers of all workers, one for each.

    Of all tasks, those with the largest needs count. A page takes memory once it is written to.
    """
    page = HUGE_PAGE_BYTES if buffer >= HUGE_PAGE_BYTES else 1
    most = in_pages(buffer)
    return sum(min(-(-need // page) * page, most) for need in _largest(jobs, needs))
