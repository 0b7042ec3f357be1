"""Project the peak memory of a run, and choose the number of workers that fits.

    peak = base + overhead + the larger one of
               the run:          tables + jobs * (source buffer + staging + scratch + reading)
               --sha256:         tables, with the blocks that are hashed
               its verification: tables, while metadata of both sides is read
                                 tables + jobs * (source buffer or a block + a smaller block
                                                  + scratch + reading)
           or the peak until the plan was made, if that is more

- The base is the memory of the process when the plan is made: it includes headers and plan.
- Tables are the memory that a run adds for each tensor: for headers, index and manifest, or later
  for `--sha256` and `--verify`, which read the result.
- The source buffer holds the input of one unit of the widest step: an expert's projections if they
  are transposed, nothing if bytes keep their order.
- Staging holds the output that is written at once.
- Reading takes the buffers of casts, and those of a source whose bytes are scattered.
- Verification holds a block of either side. Across a transpose, it holds the whole region of the
  source instead of a block. The memory of the run is free by then.
- If there are few pieces, there are no more workers than are needed to be done as soon. If there
  are few regions, only so many threads count. Of their buffers, only what the largest pieces or
  regions fill does.

Only base and tables depend on the number of tensors.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from streamconv.errors import PlanRefused, quoted
from streamconv.options import DEFAULT_JOBS
from streamconv.planning.tables import NO_TABLES, Tables
from streamconv.planning.worker_memory import (
    PieceNeeds,
    buffers_bytes,
    needed_workers,
    verifying_bytes,
)
from streamconv.units import show_size

FEW_REMOTE_BYTES, MANY_REMOTE_BYTES = 10**8, 10**9
FEW_REMOTE_JOBS, REMOTE_JOBS, MOST_REMOTE_JOBS = 4, 8, 16
"""Default number of workers if the source is remote: most of the time they wait for it. The largest
number, for a fast link with a long latency, applies only if the host has the memory for it and the
source has MANY_REMOTE_BYTES: with few pieces, most workers would have nothing to do. The smallest
one, for less than FEW_REMOTE_BYTES, is that of the requests in flight before the link is known;
then the link decides how many workers have one (sources/link.py)."""
STAGING_BYTES = 2 * 2**20
"""Output that a worker writes at once: at least a panel. It is a few MiB so that there are few
calls, each of which holds the interpreter's lock; more would save no time."""
COPY_STAGING_BYTES = 4 * 2**20
"""The same if all bytes keep their order: then a worker has no other buffer."""
REMOTE_STAGING_BYTES = 8 * 2**20
"""The same if the source is remote: each request takes time whatever its size, so few are made."""
SCRATCH_BYTES = 2**21
"""Further memory of a worker: panels on their way through the cache, its stack, its digest."""
COPY_SCRATCH_BYTES = 2**20
"""The same of a worker that transposes nothing."""
LEFT_BYTES = 2**19
"""What a worker leaves with the process when it is done."""
READ_AHEAD_BYTES = 64 * 2**20
"""Output whose source bytes are asked for ahead: some milliseconds of the fastest disks. They are
in the system's page cache, which is not the process's memory."""
MEMORY_PART = 64
"""By default, there are only more workers than `Limits.least` if the run then takes no more than
this fraction of the host's memory: one 64th."""
PIPELINE_BYTES = 3_500_000
"""Growth of the interpreter when it imports what a run needs before it plans."""
IMPORT_BYTES = 12_500_000
"""Growth of the interpreter when it imports numpy and the hash, once the plan is made."""
RANKS_BYTES = 4 * 10**6
"""Growth of a rank when it connects to the others: the store's client, gloo's threads."""
OVERHEAD_BYTES = 4 * 10**6
"""Growth of the interpreter while it runs: allocator, threads, progress bar."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of memory and workers that a plan has to keep."""

    base: int
    """Bytes that the process holds when the plan is made, with the imports of a run."""
    jobs: int = DEFAULT_JOBS
    """Number of workers, at most."""
    allowed: int | None = None
    """Bytes that the whole process may hold; None for no limit."""
    seen: int = 0
    """The most that the process of a run has held when the plan is made."""
    why: str = ""
    """Reason for the number `jobs`."""
    fair: int | None = None
    """Bytes that the process may hold if it has more than `least` workers; None for no limit."""
    least: int = DEFAULT_JOBS
    """Number of workers to which `fair` does not apply."""
    returns_freed: bool = True
    """False if memory that `--sha256` has freed stays with the process when it verifies."""


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
    tables: int = 0
    """Bytes that the run adds for its tensors."""
    casts: int = 0
    """Per worker: buffers of casts."""
    why: str = ""
    """Reason for the number of workers."""
    read_ahead: int = 0
    """Output whose source bytes are on their way into the system's page cache."""
    writers: int = 1
    """Workers that write pieces: not all `jobs`, if fewer are done as soon."""


def fit_memory(
    limits: Limits,
    source_buffer: int,
    widest: str,
    casts: int = 0,
    read_scratch_bytes: int = 0,
    tables: Tables = NO_TABLES,
    *,
    casts_again: int = 0,
    staging: int = STAGING_BYTES,
    pieces: Sequence[PieceNeeds] | None = None,
    largest_shard: int | None = None,
) -> Memory:
    """Return the memory of a run with as many workers as the limits allow.

    Args:
        limits: Limits of memory and workers.
        source_buffer: Bytes of input of one unit of the widest step.
        widest: Name of that step's tensor, for the error.
        casts: Bytes that each worker needs for casts.
        casts_again: The same for each thread of a verification.
        read_scratch_bytes: Further bytes that each worker needs for reading.
        tables: Bytes that the run and its verification add for tensors.
        staging: Bytes of output that a worker writes at once.
        pieces: The pieces if they are few; None for more than workers.
        largest_shard: Bytes of the largest output file; no piece is larger. None if not known.

    Raises:
        PlanRefused: One worker needs more than is allowed.
    """
    scratch = SCRATCH_BYTES if source_buffer else COPY_SCRATCH_BYTES
    needs = pieces
    if pieces is None and largest_shard is not None:
        needs = [PieceNeeds(largest_shard, None)] * limits.jobs
    why = limits.why
    for jobs in range(limits.jobs, 0, -1):
        writers = jobs if pieces is None else needed_workers(jobs, len(pieces))
        running = tables.run + buffers_bytes(writers, source_buffer, staging, needs)
        running += writers * (casts + read_scratch_bytes + scratch)
        phase = max(running, tables.closing + writers * LEFT_BYTES, tables.hashing)
        if tables.verify is not None:
            left = 0 if limits.returns_freed else tables.hash_blocks
            again = verifying_bytes(
                jobs, source_buffer, tables.regions, casts_again + read_scratch_bytes
            )
            phase = max(phase, tables.verify + left + again, tables.reading + left)
        peak = max(limits.base + OVERHEAD_BYTES + phase, limits.seen)
        if limits.fair is not None and jobs > limits.least and peak > limits.fair:
            why = f"as many as fit into a {MEMORY_PART}th of the memory, at least {limits.least}"
            continue
        if limits.allowed is None or peak <= limits.allowed:
            return Memory(
                limits.base,
                jobs,
                source_buffer,
                staging,
                peak,
                limits.allowed,
                max(tables.run, tables.closing, tables.verify or 0, tables.reading),
                casts,
                why,
                max(READ_AHEAD_BYTES, 2 * writers * source_buffer),
                writers,
            )
        why = "as many as fit into the allowed memory"
    fact = f"the run takes {show_size(peak)} with one worker"
    if source_buffer:
        fact = f"{quoted(widest)} needs {show_size(source_buffer)} at once and {fact}"
    raise PlanRefused(
        f"{fact}; {show_size(limits.allowed or 0)} are allowed",
        f"allow it with --max-memory {peak // 10**6 + 1}MB",
    )
