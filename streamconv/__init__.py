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

TYPE_CHECKING = False  # typing would take time to import, before __main__.py sees to signals
if TYPE_CHECKING:
    from streamconv.api.checkpoints import check, inspect, load, verify
    from streamconv.api.checkpoints import open as open  # noqa: A004 - called streamconv.open
    from streamconv.api.conversions import convert, finish, merge, plan, split
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
    from streamconv.api.run_options import RunOptions
    from streamconv.api.tensors import relay
    from streamconv.checkpoint.types import Checkpoint, TensorInfo
    from streamconv.detection.detect import Detected
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
    from streamconv.execution.result import Result
    from streamconv.lazy.checkpoint import LazyCheckpoint
    from streamconv.lazy.loading import Loaded
    from streamconv.lazy.tensor import LazyTensor
    from streamconv.options import LazyOptions, Options, Reading
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


_ERRORS = (
    *("BadCheckpoint", "IOFailed", "Interrupted", "NoCheckpoint", "NoSpace", "OutputExists"),
    *("PlanRefused", "RankFailed", "SourceChanged", "StreamconvError", "UsageError"),
    "VerifyFailed",
)
_EVENTS = (
    *("Committed", "Completed", "Event", "PieceWritten", "Planned", "Prepared", "ShareWritten"),
    *("FileVerified", "HashProgress", "HashStarted", "VerifyProgress", "VerifyStarted"),
)
_MODULES = {
    **dict.fromkeys(("check", "inspect", "load", "open", "verify"), "streamconv.api.checkpoints"),
    **dict.fromkeys(("convert", "finish", "merge", "plan", "split"), "streamconv.api.conversions"),
    **dict.fromkeys(("LazyOptions", "Options", "Reading"), "streamconv.options"),
    **dict.fromkeys(_ERRORS, "streamconv.errors"),
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
    "RunOptions": "streamconv.api.run_options",
    "TensorInfo": "streamconv.checkpoint.types",
    "Verification": "streamconv.verification.result",
    "relay": "streamconv.api.tensors",
}
"""The module of each public name, which is imported when the name is used for the first time."""

_SUBMODULES = ("api", "errors", "options")
"""The modules that are attributes without an import of their own."""


def __getattr__(name: str) -> object:
    """Import a function, class or module."""
    if name not in _MODULES and name not in _SUBMODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    value = globals()[name] = getattr(importlib.import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    """Return every public name, including those that are not imported yet."""
    return sorted({*globals(), *__all__})
