"""The shards that earlier runs, and other parts of this run, have finished.

A shard counts as finished if a journal says so and its file has the size that the journal records.
Everything else that a crash leaves, such as a shard that was half written, is not used again:

    partial folder                      without --resume         with --resume
    none                                start                    start
    no journal with a finished shard    start over               start, if the journals allow it
    journals of this conversion         refuse, or --overwrite   keep the finished shards
    journals of another conversion      refuse, or --overwrite   refuse, with the difference
    files but no journal                refuse, or --overwrite   refuse: they may be anybody's
"""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from streamconv.errors import OutputExists
from streamconv.planning.partition import parts_without
from streamconv.planning.plan import Plan
from streamconv.sinks.journal import Finished, Journal, difference, finished_shards
from streamconv.sinks.journal_files import Journals
from streamconv.sinks.next_run import RUN, NextRun
from streamconv.sinks.run_paths import RunPaths
from streamconv.system.file_ops import Files

MANY_PARTS = 8
"""How many of the missing parts a hint names."""


class ResumeState:
    """The partial folder as earlier runs have left it."""

    def __init__(
        self,
        folder: Path,
        journals: Journals,
        files: Files,
        *,
        overwrite: bool,
        resume: bool,
        next_run: NextRun = RUN,
    ) -> None:
        """Look at `folder`: with `resume` it is used again, with `overwrite` it may be removed."""
        self._folder = folder
        self._journals = journals
        self._files = files
        self._overwrite = overwrite
        self._resume = resume
        self._next_run = next_run

    def finished(self, plan: Plan) -> dict[int, Finished]:
        """Find the shards that do not have to be written again.

        Args:
            plan: The conversion.

        Returns:
            The finished shards, by number.

        Raises:
            OutputExists: The folder exists and may not be used or removed.
        """
        if not self._files.exists(self._folder):
            return {}
        if not self._resume:
            if self._overwrite or self.has_nothing_to_resume():
                return {}
            raise OutputExists(
                f"cannot start: an unfinished run has left {self._folder}",
                "add --resume to continue it, or --overwrite to start over",
            )
        journals = self._journals.read()
        if not journals and not self.has_nothing_to_resume():
            raise OutputExists(
                f"cannot resume in {self._folder}: it has no journal of the finished shards",
                self._next_run.start_over,
            )
        for journal in journals:
            if facts := difference(plan, journal):
                raise OutputExists(
                    f"cannot resume in {self._folder}: it belongs to another conversion: {facts}",
                    f"{self._next_run.correct}, or {self._next_run.start_over}",
                )
        return finished_on_disk(plan, journals, self._folder, self._files)

    def has_nothing_to_resume(self) -> bool:
        """Return True if the folder holds nothing that a later run could use.

        A run that was killed before its first shard was finished leaves such a folder, and one
        that could not remove an empty folder in it. Files without a journal do not count as
        nothing: they may be anybody's.
        """
        if not self._files.exists(self._folder):
            return True
        journals = self._journals.read()
        if any(journal.finished for journal in journals):
            return False
        names = (path.name for path in self._files.walk(self._folder))
        return bool(journals) or all(map(RunPaths.is_journal, names))

    def reclaimed(self, finished: Mapping[int, Finished]) -> int:
        """Return the bytes on disk that are freed before the first shard is written.

        Args:
            finished: The shards that are kept, by number; everything else will be removed.
        """
        if not self._files.exists(self._folder):
            return 0
        found = [_status(path, self._files) for path in self._files.walk(self._folder)]
        taken = sum(getattr(status, "st_blocks", 0) * 512 for status in found)
        return max(taken - sum(done.size for done in finished.values()), 0)


def all_pieces(
    plan: Plan, journals: Journals, folder: Path, files: Files, parts: int = 1
) -> list[Collection[str]]:
    """Read the digests of every shard from the journals of all parts.

    Args:
        plan: The conversion.
        journals: The journals of all parts.
        folder: The partial folder.
        files: The file operations.
        parts: How many parts share the conversion, if it is known.

    Returns:
        For each shard, bytes and digest of each piece, in order.

    Raises:
        OutputExists: A shard is not finished, or parts have read other weights than others.
    """
    found = journals.read()
    if len({journal.sample for journal in found if journal.sample}) > 1:
        raise OutputExists(
            f"cannot complete {folder}: its parts have read different weights, below the same "
            "headers",
            "run all parts again with --overwrite, from one checkpoint",
        )
    finished = finished_on_disk(plan, found, folder, files)
    missing = [number for number in range(len(plan.shards)) if number not in finished]
    if missing:
        raise OutputExists(
            f"cannot complete {folder}: {len(missing)} of {len(plan.shards)} shards are not "
            f"finished, the first is {plan.shards[missing[0]].name}",
            _how_to_complete(plan, missing, parts),
        )
    return [finished[number].pieces for number in range(len(plan.shards))]


def _how_to_complete(plan: Plan, missing: Sequence[int], parts: int) -> str:
    """Return the hint that names the parts which have not written all of their shards."""
    if parts == 1:
        return "run the same command with --resume to continue it"
    left = parts_without([shard.nbytes for shard in plan.shards], missing, parts)
    more = f" and {len(left) - MANY_PARTS} more" if len(left) > MANY_PARTS else ""
    named = ", ".join(f"--part {part}" for part in left[:MANY_PARTS])
    return f"run the same command with {named}{more}, then `streamconv finish` again"


def finished_on_disk(
    plan: Plan, journals: Iterable[Journal], folder: Path, files: Files
) -> dict[int, Finished]:
    """Find the shards that a journal calls finished and whose file has the right size.

    Args:
        plan: The conversion.
        journals: The journals of all parts.
        folder: The partial folder.
        files: The file operations.

    Returns:
        The finished shards, by number.
    """
    recorded = finished_shards(plan, journals)
    paths = {number: folder / plan.shards[number].name for number in recorded}
    return {
        number: finished
        for number, finished in recorded.items()
        if (status := _status(paths[number], files)) and status.st_size == finished.size
    }


def _status(path: Path, files: Files) -> os.stat_result | None:
    """Return the status of a file; None if it does not exist, or another part has renamed it."""
    try:
        return files.stat(path)
    except FileNotFoundError:
        return None
