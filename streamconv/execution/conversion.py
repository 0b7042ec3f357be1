"""Runs a conversion: divides it among processes, and decides who commits.

    run_conversion ------> _run_whole      all shards, then the commit
                     |---> _run_partition  some shards (`--part K/N`); no commit
                     `---> _run_rank       some shards; the first rank commits for all (torchrun)
    finish_conversion ---------------------> no shard; the commit that partitions leave to it

Each of them describes its share of the work and runs the same pipeline, `run_share`.
"""

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from streamconv.errors import OutputExists, UsageError
from streamconv.execution.pipeline import OnEvent, Share, run_share
from streamconv.execution.request import ConversionRequest, read_request
from streamconv.execution.result import Result
from streamconv.options import Location
from streamconv.planning.partition import Partition, check_verified, parse_partition
from streamconv.system.absolute_paths import absolute_path
from streamconv.system.cancellation import CancelToken
from streamconv.system.extras import require_extra
from streamconv.system.launcher import rank

if TYPE_CHECKING:
    from streamconv.execution.events import Event
    from streamconv.verification.result import ProgressEvent


def run_conversion(request: ConversionRequest, on_event: OnEvent | None = None) -> Result:
    """Run a conversion, or the share of it that this process has.

    Args:
        request: What the user asked for.
        on_event: Called with each event, in the calling thread.

    Returns:
        The result; `closed` is False if other partitions and `finish_conversion` have to follow.

    Raises:
        StreamconvError: One of its subclasses. If the run can be resumed, a note says so.
    """
    partition = parse_partition(request.options.get("part") or "1/1")
    if rank() is not None:
        if partition.of > 1:
            raise UsageError(
                f"cannot make part {partition.number} of {partition.of}: the ranks of torchrun "
                "share a whole conversion",
                "leave out --part, or start each part without torchrun",
            )
        return _run_rank(request, on_event)
    if partition.of > 1:
        return _run_partition(request, partition, on_event)
    return _run_whole(request, on_event)


def finish_conversion(
    dst: Location, *, verify: bool = False, on_event: OnEvent | None = None
) -> Result:
    """Commit a conversion whose partitions are all written.

    Args:
        dst: The target that was named to the partitions.
        verify: True to verify the result before it is moved to `dst`.
        on_event: Called with each event, in the calling thread.

    Raises:
        OutputExists: Shards are missing, or there is nothing left to commit.
        StreamconvError: Another of its subclasses, as for `run_conversion`.
    """
    from streamconv.sinks.checkpoint_folder import CheckpointFolder
    from streamconv.sinks.journal_files import load_request
    from streamconv.system.identity import identity_of

    CheckpointFolder(dst).clear_leftovers()
    before = identity_of(Path(dst))
    request = replace(read_request(*load_request(Path(dst)), dst), verify=verify)
    share = Share(writes_shards=False, parts=request.parts)
    try:
        return run_share(request, share, on_event, CancelToken())
    except OutputExists:
        if identity_of(Path(dst)) != before:  # another process was faster
            load_request(Path(dst))  # raises that it is finished
        raise


def _run_whole(request: ConversionRequest, on_event: OnEvent | None) -> Result:
    """Write all shards and commit them."""
    return run_share(request, Share(), on_event, CancelToken())


def _run_partition(
    request: ConversionRequest, partition: Partition, on_event: OnEvent | None
) -> Result:
    """Write the shards of one partition. It always resumes: any partition may have started."""
    if request.verify:
        check_verified(partition, request.dst)
    share = Share(partition, commits=False)
    return run_share(replace(request, resume=True), share, on_event, CancelToken())


def _run_rank(request: ConversionRequest, on_event: OnEvent | None) -> Result:
    """Write the shards of this rank. Rank 0 prepares the target first and commits at the end."""
    from streamconv.execution.ranks import connect
    from streamconv.sinks.run_lock import read_first_lock

    require_extra("share a conversion with other ranks", "torch", ("torch",))
    begin = time.monotonic()
    cancel = CancelToken()
    ranks = connect(cancel, partial(read_first_lock, absolute_path(request.dst)))
    partition = ranks.partition
    is_first = partition.number == 1
    resume = request.resume or ranks.restarted or not is_first

    def on_rank_event(event: "Event | ProgressEvent") -> None:
        ranks.synchronize(event)
        if on_event is not None:
            on_event(event)

    share = Share(
        ranks.partition, commits=is_first, waits_for_commit=True, readers=ranks.partition.of
    )
    with ranks:
        try:
            result = run_share(replace(request, resume=resume), share, on_rank_event, cancel)
        except BaseException as error:
            if (cause := ranks.failures.report(error)) is not error:
                raise cause from error
            raise
    return replace(result, seconds=time.monotonic() - begin)
