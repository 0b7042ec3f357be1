"""The result of a conversion, as Python and the reports get it."""

from dataclasses import dataclass
from pathlib import Path

from streamconv.errors import quoted
from streamconv.planning.partition import Partition
from streamconv.planning.plan import Plan
from streamconv.units import show_duration, show_size
from streamconv.verification.result import Verification


@dataclass(frozen=True, slots=True)
class Result:
    """A finished conversion, or this process's share of one."""

    plan: Plan
    """What was planned, and done."""
    path: Path
    """The target folder, absolute."""
    seconds: float
    """Duration of the run."""
    peak_memory: int
    """Peak memory of the process since it started, in bytes."""
    verification: Verification | None = None
    """The comparison with the source; None unless it was requested."""
    part: Partition = Partition()  # noqa: RUF009 - frozen
    """The share of the conversion that this process has done."""
    closed: bool = True
    """True if the result is at the target; otherwise `finish` commits it after the last part."""

    def __repr__(self) -> str:
        part = "" if self.closed else f"part {self.part.number} of {self.part.of}, "
        return (
            f"<Result at {quoted(str(self.path))}: {part}{show_size(self.plan.data_bytes)} in "
            f"{show_duration(self.seconds)}, peak memory {show_size(self.peak_memory)}>"
        )
