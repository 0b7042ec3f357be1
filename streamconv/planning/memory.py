"""Project the peak memory of a run, and choose the number of workers that fits.

    peak = base + overhead + jobs * (source buffer + staging + scratch + casts + read scratch)

- The source buffer holds the input of one unit of the widest step: an expert's projections if they
  are transposed, nothing if bytes keep their order.
- Staging holds the output that is written at once.
- Casts and read scratch are what changing a dtype, and reading, take.

None of them depends on the number of layers or experts.
"""

from dataclasses import dataclass

from streamconv.errors import PlanRefused, quoted
from streamconv.options import DEFAULT_JOBS
from streamconv.units import show_size

REMOTE_JOBS = 8
"""Default number of workers if the source is remote: most of the time they wait for it."""
STAGING_BYTES = 2**20
"""Output that a worker writes at once: holds a panel, and stays in the processor's cache."""
SCRATCH_BYTES = 3 * 2**20
"""Further memory of a worker: panels on their way through the cache, its stack, its digest."""
IMPORT_BYTES = 14 * 10**6
"""Growth of the interpreter when it imports what moves bytes: numpy and the hash."""
RANKS_BYTES = 4 * 10**6
"""Growth of a rank when it connects to the others: the store's client, gloo's threads."""
OVERHEAD_BYTES = 4 * 10**6
"""Growth of the interpreter while it runs: allocator, threads, progress bar."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of memory and workers that a plan has to keep."""

    base: int
    """Bytes that the process holds when the run begins."""
    jobs: int = DEFAULT_JOBS
    """Number of workers, at most."""
    allowed: int | None = None
    """Bytes that the whole process may hold; None for no limit."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of a run in bytes, of the whole process with interpreter and imports."""

    base: int
    jobs: int
    source_buffer: int
    """Per worker: the inputs of one unit."""
    staging: int
    """Per worker: output that is written at once."""
    peak: int
    allowed: int | None
    """The limit of the peak; None for no limit."""
    casts: int = 0
    """Per worker: buffers of casts."""


def fit_memory(
    limits: Limits, source_buffer: int, widest: str, casts: int = 0, read_scratch_bytes: int = 0
) -> Memory:
    """Return the memory of a run with as many workers as the limits allow.

    Args:
        limits: Limits of memory and workers.
        source_buffer: Bytes of input of one unit of the widest step.
        widest: Name of that step's tensor, for the error.
        casts: Bytes that casts take of each worker.
        read_scratch_bytes: Bytes that reading takes of each worker.

    Raises:
        PlanRefused: One worker needs more than is allowed.
    """
    worker = source_buffer + STAGING_BYTES + SCRATCH_BYTES + casts + read_scratch_bytes
    for jobs in range(limits.jobs, 0, -1):
        peak = limits.base + OVERHEAD_BYTES + jobs * worker
        if limits.allowed is None or peak <= limits.allowed:
            return Memory(
                limits.base, jobs, source_buffer, STAGING_BYTES, peak, limits.allowed, casts
            )
    fact = f"the run takes {show_size(peak)} with one worker"
    if source_buffer:
        fact = f"{quoted(widest)} needs {show_size(source_buffer)} at once and {fact}"
    raise PlanRefused(
        f"{fact}; allowed are {show_size(limits.allowed or 0)}",
        f"allow it with --max-memory {peak // 10**6 + 1}MB",
    )
