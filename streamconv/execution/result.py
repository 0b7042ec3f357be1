"""The result of a conversion, as Python and the reports get it."""

from dataclasses import dataclass
from pathlib import Path

from streamconv.planning.partition import Partition
from streamconv.planning.plan import Plan
from streamconv.verification.result import Verification


@dataclass(frozen=True, slots=True)
class Result:
    """A finished conversion, or this process's share of one."""

    plan: Plan
    path: Path
    """The target folder, absolute."""
    seconds: float
    peak_memory: int
    """Peak memory of the process since it started, in bytes."""
    verification: Verification | None = None
    """The comparison with the source; None unless it was requested."""
    part: Partition = Partition()  # noqa: RUF009 - frozen
    """The share of the conversion that this process has done."""
    closed: bool = True
    """True if the result is at the target; otherwise `finish` commits it after the last part."""
