"""Whether a checkpoint is the true conversion of another one, and whether it is what was written.

Nothing here knows a plan, a step or how a conversion moves bytes. Both checkpoints are opened and
recognised like any other, and from the output's side every expert of every weight is looked up in
both, seen as an array of the axes that its layout names, and compared as bits.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from streamconv.errors import VerifyFailed, quoted

KEPT_DIFFERENCES = 1000
"""So many differences are kept; all are counted."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as it should be."""

    subject: str
    """A tensor, module or file of the output, as it is called there."""
    detail: str
    """How it differs, and from what."""
    expert: int | None = None
    """Number of the expert, where one tensor holds several."""
    projection: str = ""
    """What the projection is called, where one tensor holds several."""

    @property
    def where(self) -> str:
        """Tensor, expert and projection in a few words; untrusted text."""
        expert = "" if self.expert is None else f", expert {self.expert}"
        return f"{self.subject}{expert}{f', {self.projection}' if self.projection else ''}"


@dataclass(frozen=True, slots=True)
class Verification:
    """What was compared, and what came out. Sizes in bytes."""

    path: str
    """The checkpoint that was verified."""
    source: str | None
    """What it was compared with; None where it was held against its own manifest."""
    checked_bytes: int
    """Bytes of the output that were looked at."""
    differences: tuple[Difference, ...]
    """The first of them, in the order of their names."""
    difference_count: int
    """How many there are."""
    unchecked: tuple[str, ...]
    """What has not been looked at, and why."""
    sha256: Mapping[str, str]
    """Of each file, as the hub shows it, where it was asked for."""
    seconds: float
    peak_memory: int
    """Bytes that the process held at most, since it was started."""

    @property
    def ok(self) -> bool:
        """Whether nothing differs."""
        return self.difference_count == 0

    def require(self, hint: str = "") -> None:
        """Raise VerifyFailed, with the first difference, where there is one."""
        if not self.ok:
            against = "its manifest" if self.source is None else f"the conversion of {self.source}"
            first = self.differences[0]
            raise VerifyFailed(
                f"{quoted(self.path)} is not {quoted(against)}: "
                f"{self.difference_count:,} difference{'' if self.difference_count == 1 else 's'}, "
                f"the first: {quoted(first.where)} {quoted(first.detail, 300)}",
                hint,
            )


@dataclass(frozen=True, slots=True)
class VerifyStarted:
    """Looking begins."""

    total: int
    """Bytes that are going to be looked at, about."""


@dataclass(frozen=True, slots=True)
class VerifyProgress:
    """Some bytes have been looked at."""

    nbytes: int
    where: str
    """The tensor or file that they belong to."""


@dataclass(frozen=True, slots=True)
class FileHashed:
    """The SHA-256 of a file."""

    name: str
    sha256: str


VerifyEvent = Difference | VerifyStarted | VerifyProgress | FileHashed
