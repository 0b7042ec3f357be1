"""How much memory a run takes at most, known before it starts. Pure.

    peak = base + slack + jobs * (source buffer + staging + scratch + casts)

where the source buffer holds what has to be in memory to make one unit of the widest step (an
expert's projections where they are transposed, nothing where bytes keep their order), staging is
what is written at once, and casts is what changing a dtype takes. None of them depends on the
number of layers or experts.
"""

from dataclasses import dataclass

from streamconv.errors import PlanRefused, quoted
from streamconv.options import DEFAULT_JOBS
from streamconv.units import show_size

REMOTE_JOBS = 8
"""Workers where the source is read over a network: most of the time they wait for it."""
STAGING_BYTES = 2**20
"""Of a worker: has room for a panel, stays in a core's cache on its way to the page cache."""
SCRATCH_BYTES = 3 * 2**20
"""What a worker needs besides: panels on their way through the cache, its stack, its digest."""
IMPORT_BYTES = 14 * 10**6
"""What the interpreter grows by when it imports what moves bytes: numpy and the hash."""
RANKS_BYTES = 4 * 10**6
"""What a rank grows by besides when it meets the others: the store's client, gloo's threads."""
OVERHEAD_BYTES = 4 * 10**6
"""What the interpreter grows by while it runs: the allocator's, threads', the progress bar's."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a plan has to keep to."""

    base: int
    """Bytes that the process will hold when the run begins."""
    jobs: int = DEFAULT_JOBS
    """Workers, at most."""
    allowed: int | None = None
    """Bytes that the whole process may hold; None for no limit."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What a run takes, in bytes; of the whole process, interpreter and imports included."""

    base: int
    jobs: int
    source_buffer: int
    """Of each worker: the inputs of one unit."""
    staging: int
    """Of each worker: output that is written at once."""
    peak: int
    allowed: int | None
    """What it is held against; None where nobody says."""
    casts: int = 0
    """Of each worker: what casts take."""


def fit_memory(
    limits: Limits, source_buffer: int, widest: str, casts: int = 0, read_scratch_bytes: int = 0
) -> Memory:
    """The most workers that stay within `limits`.

    `widest` names the tensor that `source_buffer` is for; `casts` and `scratch` are what casts and
    reading take of a worker besides. Raises PlanRefused where one worker is still too much.
    """
    worker = source_buffer + STAGING_BYTES + SCRATCH_BYTES + casts + read_scratch_bytes
    for jobs in range(limits.jobs, 0, -1):
        peak = limits.base + OVERHEAD_BYTES + jobs * worker
        if limits.allowed is None or peak <= limits.allowed:
            return Memory(
                limits.base, jobs, source_buffer, STAGING_BYTES, peak, limits.allowed, casts
            )
    need = (
        f"{quoted(widest)} needs {show_size(source_buffer)} at once and " if source_buffer else ""
    )
    raise PlanRefused(
        f"{need}the run takes {show_size(peak)} with one worker; "
        f"allowed are {show_size(limits.allowed or 0)}",
        f"allow it with --max-memory {peak // 10**6 + 1}MB",
    )
