"""Errors for state dicts of torch.distributed.checkpoint that a checkpoint does not fit.

torch collects the errors of all ranks, and shows each with its notes. So a hint becomes a note.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from streamconv.errors import BadCheckpoint, StreamconvError, quoted
from streamconv.options import Location

MAX_SHOWN = 20
"""Names in a message; the others are counted."""


def show_hint(error: StreamconvError) -> None:
    """Make the hint of an error a note of it."""
    if error.hint and error.hint not in getattr(error, "__notes__", ()):
        error.add_note(error.hint)


def shape_error(key: str, stored: Sequence[int], asked: object) -> BadCheckpoint:
    """Return the error for a tensor of another shape than that in the state dict.

    Args:
        key: Its key in the state dict.
        stored: Its shape in the checkpoint.
        asked: Its shape in the state dict.
    """
    shown = list(asked) if isinstance(asked, tuple) else asked
    error = BadCheckpoint(
        f"cannot load {quoted(key)}: its shape is {list(stored)} in the checkpoint, but {shown} in "
        "the state dict",
        "name the layout of the state dict with `to`",
    )
    show_hint(error)
    return error


def missing_keys_error(
    src: Location, missing: Sequence[str], names: Collection[str], prefix: str
) -> BadCheckpoint:
    """Return the error that lists keys without a tensor.

    Args:
        src: Where the checkpoint is.
        missing: The keys.
        names: The names of its tensors.
        prefix: The one that each key was expected to begin with.
    """
    shown = ", ".join(map(quoted, missing[:MAX_SHOWN]))
    if len(missing) > MAX_SHOWN:
        shown += f" and {len(missing) - MAX_SHOWN} more"
    some = "1 key" if len(missing) == 1 else f"{len(missing)} keys"
    return BadCheckpoint(
        f"cannot load {some} of the state dict: {quoted(str(src))} has no tensor called {shown}",
        _hint(missing, frozenset(names), prefix),
    )


def _hint(missing: Sequence[str], names: Collection[str], prefix: str) -> str:
    """Return the hint: a prefix with which keys would be found, or how to leave them out."""
    found = Counter(own for key in missing for own in _prefixes(key, names) if own != prefix)
    if found:
        (best, _), *_ = found.most_common(1)
        return f"say how the keys of the model begin in the state dict: prefix={best!r}"
    return "name the layout of the state dict with `to`, or leave such keys with partial=True"


def _prefixes(key: str, names: Collection[str]) -> Iterator[str]:
    """Yield each prefix of a key whose rest is the name of a tensor."""
    parts = key.split(".")
    for count in range(len(parts)):
        rest = ".".join(parts[count:])
        if rest in names:
            yield key.removesuffix(rest)
