"""Convert Mixture-of-Experts checkpoints from one expert layout to another, as a stream.

    inspect(src)       family, expert stacks and their layouts, from headers alone
    plan(src)          every output byte has its place before any is written
    merge(src, dst)    experts of a layer in one tensor; `split` for one tensor each,
                       `convert` for any layout; `finish` after all parts of a run
    open(src)          any layout without converting: tensors that are read where they are indexed
    load(module, src)  the same, into a module of torch
    relay(tensors)     tensors of torch in another layout, one by one, as a trainer emits them
    verify(src, dst)   bit for bit, independent of the code that converts
    check(src)         would transformers load it?

Options are keyword arguments; `help(streamconv.merge)` lists them. Errors are StreamconvErrors. The
steps of a run are logged under the name `streamconv`.
"""

from typing import TYPE_CHECKING

from streamconv.api.checkpoints import check, inspect, load, verify
from streamconv.api.checkpoints import open as open  # noqa: A004 - called streamconv.open
from streamconv.api.conversions import convert, finish, merge, plan, split
from streamconv.api.run_options import RunOptions
from streamconv.api.tensors import relay
from streamconv.errors import (
    BadCheckpoint,
    Interrupted,
    IOFailed,
    NoCheckpoint,
    NoSpace,
    OutputExists,
    PlanRefused,
    RankFailed,
    SourceChanged,
    StreamconvError,
    UsageError,
    VerifyFailed,
)
from streamconv.options import LazyOptions, Options, Reading

if TYPE_CHECKING:
    from streamconv.api.events import (
        Committed,
        Completed,
        Event,
        FileVerified,
        HashProgress,
        HashStarted,
        PieceWritten,
        Planned,
        Prepared,
        ShareWritten,
        VerifyProgress,
        VerifyStarted,
    )
    from streamconv.api.inspection import Inspection
    from streamconv.checkpoint.types import Checkpoint, TensorInfo
    from streamconv.detection.detect import Detected
    from streamconv.execution.result import Result
    from streamconv.lazy.checkpoint import LazyCheckpoint
    from streamconv.lazy.loading import Loaded
    from streamconv.lazy.tensor import LazyTensor
    from streamconv.planning.plan import Plan
    from streamconv.relaying.relay import Relay
    from streamconv.verification.result import Difference, Verification
    from streamconv.verification.transformers_load import Loading

__version__ = "0.2.0"
__all__ = [
    "BadCheckpoint",
    "Checkpoint",
    "Committed",
    "Completed",
    "Detected",
    "Difference",
    "Event",
    "FileVerified",
    "HashProgress",
    "HashStarted",
    "IOFailed",
    "Inspection",
    "Interrupted",
    "LazyCheckpoint",
    "LazyOptions",
    "LazyTensor",
    "Loaded",
    "Loading",
    "NoCheckpoint",
    "NoSpace",
    "Options",
    "OutputExists",
    "PieceWritten",
    "Plan",
    "PlanRefused",
    "Planned",
    "Prepared",
    "RankFailed",
    "Reading",
    "Relay",
    "Result",
    "RunOptions",
    "ShareWritten",
    "SourceChanged",
    "StreamconvError",
    "TensorInfo",
    "UsageError",
    "Verification",
    "VerifyFailed",
    "VerifyProgress",
    "VerifyStarted",
    "check",
    "convert",
    "finish",
    "inspect",
    "load",
    "merge",
    "open",
    "plan",
    "relay",
    "split",
    "verify",
]


_EVENTS = (
    *("Committed", "Completed", "Event", "PieceWritten", "Planned", "Prepared", "ShareWritten"),
    *("FileVerified", "HashProgress", "HashStarted", "VerifyProgress", "VerifyStarted"),
)
_MODULES = {
    **dict.fromkeys(_EVENTS, "streamconv.api.events"),
    "Checkpoint": "streamconv.checkpoint.types",
    "Detected": "streamconv.detection.detect",
    "Difference": "streamconv.verification.result",
    "Inspection": "streamconv.api.inspection",
    "LazyCheckpoint": "streamconv.lazy.checkpoint",
    "LazyTensor": "streamconv.lazy.tensor",
    "Loaded": "streamconv.lazy.loading",
    "Loading": "streamconv.verification.transformers_load",
    "Plan": "streamconv.planning.plan",
    "Relay": "streamconv.relaying.relay",
    "Result": "streamconv.execution.result",
    "TensorInfo": "streamconv.checkpoint.types",
    "Verification": "streamconv.verification.result",
}
"""The module of each class that is imported only when it is used, so that `--help` is fast."""


def __getattr__(name: str) -> object:
    """Import the class of a result or event."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """Return every public name, including those of classes that are not imported yet."""
    return sorted({*globals(), *__all__})
