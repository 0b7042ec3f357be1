"""Names of the files that a run keeps next to its target.

For the target `out`, part 1 of a run uses these names, all in the folder of `out`:

    out.streamconv-partial/                 the result while it is built
        streamconv-journal-1.jsonl          the shards that part 1 has finished
        streamconv-journal-command.json     the request of the conversion
        streamconv-journal-target.txt       what `finish` may replace
    out.streamconv-journal-1.jsonl          the journal, moved here right before the commit
    out.streamconv-journal-command.json     the request, moved here right before the commit
    out.streamconv-journal-target.txt       the same
    out.streamconv-replaced/                the former content of `out`, during the commit
    out.streamconv-lock-1                   the lock of part 1
"""

import re
from dataclasses import dataclass
from pathlib import Path

from streamconv.checkpoint.types import JOURNAL_PREFIX, PARTIAL_SUFFIX
from streamconv.errors import UsageError

OWN_SUFFIX = ".streamconv-"
REPLACED_SUFFIX = ".streamconv-replaced"
LOCK_SUFFIX = ".streamconv-lock-"
_JOURNAL_NAME = re.compile(
    re.escape(JOURNAL_PREFIX)
    + r"(?:[0-9]+\.(?:jsonl|new|command|target)|command\.json|target\.txt)"
)
"""Journals, request and listing, and the drafts of each."""
_NAME_OF_A_RUN = re.compile(
    rf"(.+)(?:{re.escape(PARTIAL_SUFFIX)}|{re.escape(REPLACED_SUFFIX)}"
    rf"|{re.escape(LOCK_SUFFIX)}[0-9]+|\.{_JOURNAL_NAME.pattern})",
    re.DOTALL,
)
"""Each name next to a target, and the name of the target."""


def target_of(name: str) -> str | None:
    """Return the name of the target next to which a run would use a name; None for other names."""
    found = _NAME_OF_A_RUN.fullmatch(name)
    return found and found[1]


@dataclass(frozen=True, slots=True)
class RunPaths:
    """The paths of a run that converts to `target`, which is absolute.

    Raises UsageError for the root of the file system, which has nothing next to it.
    """

    target: Path

    def __post_init__(self) -> None:
        if not self.target.name:
            raise UsageError(
                f"cannot write to {self.target}: a result is built next to its target, and "
                "nothing is next to the root of the file system",
                "name a folder below it",
            )

    @property
    def parent(self) -> Path:
        """The folder that holds the target and everything next to it."""
        return self.target.parent

    @property
    def partial(self) -> Path:
        """The folder in which the result is built."""
        return self._sibling(PARTIAL_SUFFIX)

    @property
    def replaced(self) -> Path:
        """The former target while it is replaced."""
        return self._sibling(REPLACED_SUFFIX)

    @property
    def own_prefix(self) -> str:
        """The start of all names next to the target that are those of a run."""
        return f"{self.target.name}{OWN_SUFFIX}"

    @property
    def lock_prefix(self) -> str:
        """The start of the names of all locks on the target."""
        return f"{self.target.name}{LOCK_SUFFIX}"

    def lock(self, part: int) -> Path:
        """Return the path of the lock of a part."""
        return self._sibling(f"{LOCK_SUFFIX}{part}")

    def journal(self, part: int) -> Path:
        """Return the path of the journal of a part, in the partial folder."""
        return self.partial / f"{JOURNAL_PREFIX}{part}.jsonl"

    @staticmethod
    def is_journal(name: str) -> bool:
        """Return True for the names of journals, request and the like in a partial folder.

        Other files whose names begin like these are somebody else's, such as copies of them.
        """
        return _JOURNAL_NAME.fullmatch(name) is not None

    def is_moved(self, name: str) -> bool:
        """Return True for the names of journals, request and the like next to the target."""
        begin = f"{self.target.name}."
        return name.startswith(begin) and self.is_journal(name.removeprefix(begin))

    def is_lock(self, name: str) -> bool:
        """Return True for the names of all locks on the target."""
        number = name.removeprefix(self.lock_prefix)
        return number != name and number.isascii() and number.isdecimal()

    @property
    def request(self) -> Path:
        """The request of the conversion, in the partial folder."""
        return self.partial / f"{JOURNAL_PREFIX}command.json"

    @property
    def listing(self) -> Path:
        """The digest of what the conversion may replace, in the partial folder."""
        return self.partial / f"{JOURNAL_PREFIX}target.txt"

    def longest_name(self, parts: int) -> str:
        """Return the longest name next to the target in a run of so many parts."""
        moved = [self.moved(path) for path in (self.journal(parts), self.request, self.listing)]
        return max((path.name for path in (*moved, self.lock(parts), self.replaced)), key=len)

    def moved(self, path: Path) -> Path:
        """Return where a file of the partial folder goes when it is moved next to the target."""
        return self._sibling(f".{path.name}")

    def moved_back(self, path: Path) -> Path:
        """Return where a file next to the target was in the partial folder."""
        return self.partial / path.name.removeprefix(f"{self.target.name}.")

    def _sibling(self, suffix: str) -> Path:
        return self.target.with_name(self.target.name + suffix)
