"""Convert Mixture-of-Experts checkpoints from one expert layout to another, as a stream.

    inspect(src)       family, expert stacks and their layouts, from headers alone
    plan(src)          every output byte has its place before any is written
    merge(src, dst)    experts of a layer in one tensor; `split` for one tensor each,
                       `convert` for any layout; `finish` after all parts of a run
    verify(src, dst)   bit for bit, independent of the code that converts
    check(src)         if transformers would load it

Options are keyword arguments; `help(streamconv.merge)` lists them. Errors are StreamconvErrors.
"""

from typing import TYPE_CHECKING

from streamconv.api import check, convert, finish, inspect, merge, plan, split, verify
from streamconv.detection.detect import Detected
from streamconv.errors import (
    BadCheckpoint,
    Interrupted,
    IOFailed,
    NoSpace,
    OutputExists,
    PlanRefused,
    StreamconvError,
    UsageError,
    VerifyFailed,
)
from streamconv.options import Options, Reading
from streamconv.planning.plan import Plan

if TYPE_CHECKING:
    from streamconv.execution.result import Result
    from streamconv.verification.result import Verification

__version__ = "0.2.0"
__all__ = [
    "BadCheckpoint",
    "Detected",
    "IOFailed",
    "Interrupted",
    "NoSpace",
    "Options",
    "OutputExists",
    "Plan",
    "PlanRefused",
    "Reading",
    "Result",
    "StreamconvError",
    "UsageError",
    "Verification",
    "VerifyFailed",
    "check",
    "convert",
    "finish",
    "inspect",
    "merge",
    "plan",
    "split",
    "verify",
]


def __getattr__(name: str) -> object:
    """Import a result's class when it is asked for, so that `--help` comes at once."""
    if name == "Result":
        from streamconv.execution.result import Result

        return Result
    if name == "Verification":
        from streamconv.verification.result import Verification

        return Verification
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
