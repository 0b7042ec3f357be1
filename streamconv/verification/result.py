"""The result of a verification, and its events.

A verification knows no plan, no step, and nothing of how a conversion moves bytes. It opens and
detects both checkpoints like any other. Then it looks up every expert of every weight of the output
in both, as an array with the axes that its layout names, and compares the bits.
"""

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass, field

from streamconv.errors import VerifyFailed, quoted
from streamconv.units import show_size

KEPT_DIFFERENCES = 1000
"""How many differences are kept. All of them are counted."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A tensor, expert or file that is not as it should be."""

    subject: str
    """A tensor, module or file of the output, as it is called there."""
    detail: str
    """How it differs, and from what."""
    expert: int | None = None
    """Number of the expert, if the tensor holds several."""
    projection: str = ""
    """Name of the projection, if the tensor holds several."""

    @property
    def where(self) -> str:
        """Subject, expert and projection in a few words; untrusted text."""
        expert = "" if self.expert is None else f", expert {self.expert}"
        return f"{self.subject}{expert}{f', {self.projection}' if self.projection else ''}"


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of a verification. Sizes in bytes."""

    path: str
    """The checkpoint that was verified."""
    source: str | None
    """What it was compared with; None for its own manifest."""
    checked_bytes: int
    """Bytes of the output that were compared."""
    differences: tuple[Difference, ...]
    """The first KEPT_DIFFERENCES, in the order of their names."""
    difference_count: int
    """Number of all differences."""
    unchecked: tuple[str, ...]
    """What was not compared, and why."""
    sha256: Mapping[str, str]
    """SHA-256 of each file, as the hub shows it, if it was asked for."""
    seconds: float
    """Duration of the verification."""
    peak_memory: int
    """Peak memory of the process since its start."""

    @property
    def ok(self) -> bool:
        """True if nothing differs."""
        return self.difference_count == 0

    def __repr__(self) -> str:
        source = "its manifest" if self.source is None else quoted(self.source)
        verdict = "ok" if self.ok else f"{self.difference_count:,} differences"
        return (
            f"<Verification of {quoted(self.path)} with {source}: {verdict}, "
            f"{show_size(self.checked_bytes)} checked>"
        )

    def require(self, hint: str = "") -> None:
        """Raise VerifyFailed with the first difference if there is one; `hint` says what to do."""
        if self.ok:
            return
        if self.source is None:
            verdict = f"{quoted(self.path)} differs from its manifest"
        else:
            verdict = f"{quoted(self.path)} is not the conversion of {quoted(self.source)}"
        first = self.differences[0]
        count = f"{self.difference_count:,} difference{'' if self.difference_count == 1 else 's'}"
        raise VerifyFailed(
            f"{verdict}: {count}, the first: {quoted(first.where)} {quoted(first.detail, 300)}",
            hint,
        )


@dataclass(frozen=True, slots=True)
class VerifyStarted:
    """The comparison begins."""

    total: int
    """Estimated bytes to compare."""
    shards: tuple[str, ...] = ()
    """Names of the files with tensors whose bytes are compared, in the checkpoint's order."""


@dataclass(frozen=True, slots=True)
class VerifyProgress:
    """Some bytes have been compared."""

    nbytes: int
    """Number of these bytes."""
    where: str
    """The tensor or file that they belong to."""
    file: str = ""
    """The file that they are in."""


@dataclass(frozen=True, slots=True)
class FileVerified:
    """The bytes of a file have been compared, and those that differ are among the differences."""

    name: str
    """Name of the file in the checkpoint."""
    nbytes: int
    """Bytes that were compared."""
    total: int
    """Bytes of it that can be compared. A sample, or a tensor without counterpart, leaves some."""


@dataclass(frozen=True, slots=True)
class FileHashed:
    """A file has been read to its end."""

    name: str
    sha256: str


ProgressEvent = VerifyStarted | VerifyProgress | FileVerified
"""What `on_event` is called with."""
VerifyEvent = Difference | FileHashed | ProgressEvent

OnEvent = Callable[[ProgressEvent], None]


@dataclass
class Tally:
    """What has been found so far: counts all differences, keeps the first ones."""

    on_event: OnEvent | None
    differences: list[Difference] = field(default_factory=list)
    difference_count: int = 0
    checked_bytes: int = 0
    unchecked: list[str] = field(default_factory=list)
    sha256: dict[str, str] = field(default_factory=dict)

    def add(self, events: Iterable[VerifyEvent]) -> None:
        """Count events, and pass the progress on.

        An error of `on_event` keeps a generator alive as long as somebody has the error. So the
        generator is closed here, and with it the threads end that make its events.
        """
        with closing(events) if isinstance(events, Generator) else nullcontext():
            for event in events:
                self._add(event)

    def _add(self, event: VerifyEvent) -> None:
        if isinstance(event, Difference):
            self.difference_count += 1
            if len(self.differences) < KEPT_DIFFERENCES:
                self.differences.append(event)
        elif isinstance(event, FileHashed):
            self.sha256[event.name] = event.sha256
        else:
            self.checked_bytes += event.nbytes if isinstance(event, VerifyProgress) else 0
            if self.on_event is not None:
                self.on_event(event)
