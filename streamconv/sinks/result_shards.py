"""Find out if a checkpoint at the target is the result of a run that died in its commit."""

from collections.abc import Sequence
from pathlib import Path

from streamconv.planning.plan import Plan
from streamconv.sinks.journal import Finished, Journal, difference
from streamconv.sinks.recorded_pieces import recorded_pieces
from streamconv.system.file_ops import Files


def shards_of_result(
    plan: Plan, journals: Sequence[Journal], target: Path, files: Files
) -> dict[int, Finished]:
    """Return the shards of a result, or nothing if the target is not the result of `plan`.

    The journals next to the target tell if it is the result of this conversion. Its manifest has
    to have the digests that they have: the partial folder may be gone, and the target another
    conversion of a checkpoint with these names and shapes.

    Args:
        plan: The conversion.
        journals: The journals of its parts, which the commit has moved next to the target.
        target: A checkpoint.
        files: The file operations.

    Returns:
        All shards, by number, or none.
    """
    if not journals or any(difference(plan, journal) for journal in journals):
        return {}
    recorded = recorded_pieces(target, (shard.name for shard in plan.shards), files)
    for journal in journals:
        for name, done in journal.finished.items():
            if recorded.get(name, []) != list(done.pieces):
                return {}
    finished = {}
    for number, shard in enumerate(plan.shards):
        try:
            size = files.stat(target / shard.name).st_size
        except FileNotFoundError:
            return {}
        if size != shard.nbytes:
            return {}
        finished[number] = Finished(size, ())
    return finished
