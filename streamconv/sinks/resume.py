"""What runs before this one, and its other parts, have left in the folder that is being built."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from streamconv.checkpoint.types import JOURNAL_PREFIX
from streamconv.errors import OutputExists
from streamconv.planning.partition import Partition
from streamconv.planning.plan import Plan
from streamconv.sinks.journal import Finished, Journal, difference, finished_shards
from streamconv.sinks.journal_files import Journals
from streamconv.system.file_ops import Files


class ResumeState:
    """What stands in `folder` by its journals; used with `resume`, made anew with `overwrite`."""

    def __init__(
        self,
        folder: Path,
        journals: Journals,
        part: Partition,
        files: Files,
        *,
        overwrite: bool,
        resume: bool,
    ) -> None:
        self._folder = folder
        self._journals = journals
        self._part = part
        self._files = files
        self._overwrite = overwrite
        self._resume = resume

    def finished(self, plan: Plan) -> dict[int, Finished]:
        """The shards that are finished already; refused where what is there is not to be used.

        Raises OutputExists.
        """
        if not self._files.exists(self._folder):
            return {}
        if not self._resume:
            if self._overwrite:
                return {}
            raise OutputExists(
                f"{self._folder} is there: a run that was stopped",
                "go on with --resume, or start over with --overwrite",
            )
        journals = self._journals.read()
        if not journals and any(
            not name.startswith(JOURNAL_PREFIX) for name in self._files.names(self._folder)
        ):
            raise OutputExists(
                f"{self._folder}: there is no journal in it, so nothing tells what is finished",
                self._anew(),
            )
        for journal in journals:
            if other := difference(plan, journal):
                raise OutputExists(
                    f"{self._folder} was begun otherwise: {other}",
                    f"go on with what it was begun with, or {self._anew()}",
                )
        return self._there(plan, journals)

    def _anew(self) -> str:
        """How to be rid of what is there: a part cannot tell it from what others have made."""
        if self._part.of > 1:
            return "remove that folder, and start over with all parts"
        return "start over with --overwrite, without --resume"

    def _there(self, plan: Plan, journals: Iterable[Journal]) -> dict[int, Finished]:
        """The shards that the journals say are finished, where they are."""
        said = finished_shards(plan, journals)
        paths = {number: self._folder / plan.shards[number].name for number in said}
        return {
            number: done for number, done in said.items() if self._size(paths[number]) == done.size
        }

    def reclaimed(self, finished: Mapping[int, Finished]) -> int:
        """Bytes on disk of what an earlier run left that will be made again."""
        if not self._files.exists(self._folder):
            return 0
        stats = [self._files.stat(path) for path in self._files.walk(self._folder)]
        taken = sum(getattr(stat, "st_blocks", 0) * 512 for stat in stats)
        return max(taken - sum(done.size for done in finished.values()), 0)

    def pieces(self, plan: Plan) -> list[Sequence[str]]:
        """Bytes and digests of every shard's pieces, as the journals of all parts have them.

        Raises OutputExists where a shard is not finished.
        """
        finished = self._there(plan, self._journals.read())
        missing = [shard.name for k, shard in enumerate(plan.shards) if k not in finished]
        if missing:
            raise OutputExists(
                f"{self._folder}: {len(missing)} of {len(plan.shards)} shards are not finished, "
                f"{missing[0]} the first of them"
            )
        return [finished[number].pieces for number in range(len(plan.shards))]

    def _size(self, path: Path) -> int | None:
        try:
            return self._files.stat(path).st_size
        except FileNotFoundError:
            return None
