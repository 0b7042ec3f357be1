"""Asks the machine how much memory and how many workers a plan may use.

No other module of planning asks it for anything.
"""

import sys
from dataclasses import replace

from streamconv.checkpoint.types import Checkpoint
from streamconv.options import Options
from streamconv.planning.memory import (
    FEW_REMOTE_BYTES,
    FEW_REMOTE_JOBS,
    IMPORT_BYTES,
    MANY_REMOTE_BYTES,
    MEMORY_PART,
    MOST_REMOTE_JOBS,
    PIPELINE_BYTES,
    RANKS_BYTES,
    REMOTE_JOBS,
    Limits,
)
from streamconv.system.buffers import can_return_memory, return_freed_memory
from streamconv.system.cores import MOST_WORKERS, cores, default_workers
from streamconv.system.extras import require_extra
from streamconv.system.launcher import rank, ranks_on_host
from streamconv.system.resources import (
    default_max_memory,
    peak_bytes,
    resident_bytes,
    total_memory,
)
from streamconv.units import parse_size, show_size


def ask_limits(checkpoint: Checkpoint, options: Options, *, is_run: bool = False) -> Limits:
    """Return the limits of memory and workers. To be called when the plan is otherwise complete.

    The number of workers is the user's, else it follows from the source and the processor's cores.

    Args:
        checkpoint: The source.
        options: What the user asked for.
        is_run: True if a run follows, or is shown. Headers that were parsed leave freed memory,
            which is then given back to the system first: that stalls other threads, so a plan alone
            does not do it to the process of its caller.
    """
    if is_run:
        return_freed_memory()
    limits = _limits(checkpoint, options)
    return replace(limits, returns_freed=can_return_memory())


def _limits(checkpoint: Checkpoint, options: Options) -> Limits:
    # a plan alone has not imported what is in memory when a run plans
    pipeline = 0 if "streamconv.execution.pipeline" in sys.modules else PIPELINE_BYTES
    base, seen = _base_memory() + pipeline, peak_bytes() + pipeline
    allowed = _allowed_memory(options)
    jobs = options.get("jobs")
    if jobs is not None:
        return Limits(base, jobs, allowed, seen, "as asked for")
    total = total_memory()
    fair = None if total is None else total // MEMORY_PART // ranks_on_host()
    if checkpoint.remote:
        if checkpoint.total_bytes < FEW_REMOTE_BYTES:
            few = f"as the source is remote, with {show_size(checkpoint.total_bytes)}"
            return Limits(base, FEW_REMOTE_JOBS, allowed, seen, few, fair, FEW_REMOTE_JOBS)
        is_large = fair is not None and checkpoint.total_bytes >= MANY_REMOTE_BYTES
        most = MOST_REMOTE_JOBS if is_large else REMOTE_JOBS
        return Limits(base, most, allowed, seen, "as the source is remote", fair, REMOTE_JOBS)
    why = "as many as there are cores" if cores() <= MOST_WORKERS else "the most by default"
    return Limits(base, default_workers(ranks_on_host()), allowed, seen, why, fair)


def _allowed_memory(options: Options) -> int | None:
    """Return the limit of memory in bytes: the user's, else by the memory of the machine."""
    max_memory = options.get("max_memory")
    if max_memory is None:
        return default_max_memory(ranks_on_host())
    return parse_size(max_memory)


def _base_memory() -> int:
    """Return the bytes that this process holds, with what a run imports after the plan."""
    ranks = 0
    if rank() is not None:
        require_extra("share a conversion with other ranks", "torch", ("torch",))
        # Loaded in a dry run too, so that its plan shows the memory of a real one.
        import torch.distributed  # noqa: F401

        ranks = RANKS_BYTES
    return resident_bytes() + (0 if "numpy" in sys.modules else IMPORT_BYTES) + ranks
