"""Convert Mixture-of-Experts checkpoints from one expert layout to another, as a stream.

    inspect(src)       family, expert stacks and their layouts, from headers alone
    plan(src)          every output byte has its place before any is written
    merge(src, dst)    experts of a layer in one tensor; `split` for one tensor each,
                       `convert` for any layout; `finish` after all parts of a run
    open(src)          any layout without converting: tensors that are read where they are indexed
    load(module, src)  the same, into a module of torch
    verify(src, dst)   bit for bit, independent of the code that converts
    check(src)         if transformers would load it

Options are keyword arguments; `help(streamconv.merge)` lists them. Errors are StreamconvErrors.
"""

from typing import TYPE_CHECKING

from streamconv.api.checkpoints import check, inspect, load, verify
from streamconv.api.checkpoints import open as open  # noqa: A004 - called streamconv.open
from streamconv.api.conversions import convert, finish, merge, plan, split
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
from streamconv.options import LazyOptions, Options, Reading

if TYPE_CHECKING:
    from streamconv.detection.detect import Detected
    from streamconv.execution.result import Result
    from streamconv.lazy.checkpoint import LazyCheckpoint
    from streamconv.lazy.loading import Loaded
    from streamconv.lazy.tensor import LazyTensor
    from streamconv.planning.plan import Plan
    from streamconv.verification.result import Verification

__version__ = "0.2.0"
__all__ = [
    "BadCheckpoint",
    "Detected",
    "IOFailed",
    "Interrupted",
    "LazyCheckpoint",
    "LazyOptions",
    "LazyTensor",
    "Loaded",
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
    "load",
    "merge",
    "open",
    "plan",
    "split",
    "verify",
]


_MODULES = {
    "Detected": "streamconv.detection.detect",
    "LazyCheckpoint": "streamconv.lazy.checkpoint",
    "LazyTensor": "streamconv.lazy.tensor",
    "Loaded": "streamconv.lazy.loading",
    "Plan": "streamconv.planning.plan",
    "Result": "streamconv.execution.result",
    "Verification": "streamconv.verification.result",
}
"""The modules of classes that are imported when they are asked for: `--help` comes at once."""


def __getattr__(name: str) -> object:
    """Import the class of a result."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_MODULES[name]), name)
