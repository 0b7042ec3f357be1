"""streamconv: MoE checkpoints from one expert layout to another, streamed.

    source = open_source(src)                           headers only: no tensor data is read
    stored = cast_checkpoint(source.checkpoint, casting) as it will be read
    found = recognise(stored)                           its family, its expert stacks
    target = resolve_target(found, "fused", why)        a layout for each stack, and names
    plan = make_plan(source.checkpoint, found, target)  every output byte has its place
    for event in execute(plan, source, sink):           bytes are moved, nothing is decided
        ...                                             the result appears whole, at the end

The functions below do that in one call: `inspect`, `plan`, `merge`, `split`, `convert`.
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
from streamconv.verification.result import Verification

if TYPE_CHECKING:
    from streamconv.execution.pipeline import Result

__version__ = "0.1.0"
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
    """The one name of the API that is not needed to call it: help has to come at once."""
    if name == "Result":
        from streamconv.execution.pipeline import Result

        return Result
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
