"""A checkpoint as its headers describe it: every tensor, every other file, the config."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from streamconv.checkpoint.layout_record import Record
from streamconv.errors import quoted

INDEX_SUFFIX = ".safetensors.index.json"
INDEX = f"model{INDEX_SUFFIX}"
MANIFEST = "streamconv.json"
DIGEST = "xxh3-128"
"""The checksum of every piece and file, as the manifest names it."""
JOURNAL_PREFIX = "streamconv-journal-"
"""Files of a run that is not finished: in no checkpoint, and so never copied from one."""

SHOWN_KINDS = 8
"""How many kinds of names are shown in a line."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one tensor's bytes are."""

    name: str
    dtype: str
    """A dtype of the safetensors format, such as `BF16`."""
    shape: tuple[int, ...]
    file: str
    """Name of the file in the checkpoint."""
    offset: int
    """Bytes from the start of the file."""
    nbytes: int
    cast: "Cast | None" = None
    """What it is made from, where `dtype` and `nbytes` are not what is stored."""

    @property
    def stored(self) -> "tuple[TensorInfo, ...]":
        """The stored tensors that it is read from."""
        if self.cast is None:
            return (self,)
        return (self.cast.stored, *filter(None, (self.cast.scales,)))


@dataclass(frozen=True, slots=True)
class Cast:
    """A tensor whose elements become another dtype's as they are read."""

    stored: TensorInfo
    scales: TensorInfo | None = None
    """What each block of its last two dimensions is multiplied with before that."""
    block: tuple[int, int] = (1, 1)
    """Rows and columns of a block; the last one of each may be cut short."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file that holds tensors."""

    name: str
    size: int
    """Bytes, header included."""
    digest: str
    """xxh3-128 of the header, as hex digits."""


@dataclass(frozen=True, slots=True)
class OtherFile:
    """A file without tensors; `left_behind` says why it does not travel along, if it does not."""

    name: str
    """Path below the checkpoint, with slashes."""
    size: int
    skip_reason: str = ""


@dataclass(frozen=True, slots=True)
class ReferenceCheckpoint:
    """A checkpoint that completes another one, and what it gives."""

    location: str
    names: str
    """The form whose names it has."""
    filled: frozenset[str]
    """Names of the tensors that it gives, as they are called in what it completes."""
    nbytes: int
    """Of these tensors."""
    unknown: tuple[str, ...] = ()
    """Names of the tensors that it does not have."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything a plan is made from. Holds no tensor data."""

    location: str
    """What the user called it."""
    tensors: Mapping[str, TensorInfo]
    """By name."""
    files: tuple[SourceFile, ...]
    others: tuple[OtherFile, ...]
    config: Mapping[str, Any]
    record: Record | None
    """What it says of its own layouts, where it was written by streamconv."""
    total_bytes: int
    """Bytes of all tensors, headers excluded."""
    format: str = "safetensors"
    """What its tensors are stored in, as `--format` calls it."""
    revision: str | None = None
    """The commit that it is read from, where it comes from a repository."""
    read_scratch_bytes: int = 0
    """Bytes that reading takes beside where it reads to, of each worker."""
    remote: frozenset[str] = frozenset()
    """Names of the files that are not on this machine, so that reading them is a transfer."""
    manifest: Mapping[str, Any] = field(default_factory=dict)
    """What it says of how it was written, where no file of its own says that, as in a DCP."""
    template: ReferenceCheckpoint | None = None
    """Where config and other files come from, where that is elsewhere."""


_DIGITS = re.compile(r"([0-9]{1,18})")
_NUMBER = re.compile(r"(?<![^.])[0-9]{1,18}(?=\.)")


def in_config(config: Mapping[str, Any], path: str) -> Any:
    """What stands at a path of keys and dots; None where nothing does, all of it at no path."""
    found: Any = config
    for key in filter(None, path.split(".")):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Sort key under which `experts.10` comes after `experts.9`."""
    parts: list[str | int] = list(_DIGITS.split(name))
    parts[1::2] = map(int, parts[1::2])
    return parts, name


def pattern_of(prefix: str) -> str:
    """`prefix` with a * for every number between dots: what the layers of a stack share."""
    return _NUMBER.sub("*", prefix)


def summarize_names(names: Iterable[str]) -> str:
    """Names in a line, those that differ in numbers once, each with how many there are."""
    counts = Counter(map(pattern_of, names))
    shown = [f"{quoted(kind)} ({count:,})" for kind, count in counts.most_common(SHOWN_KINDS)]
    rest = len(counts) - len(shown)
    return ", ".join([*shown, *([f"{rest} more kinds"] if rest else [])])


def layer_of(prefix: str) -> tuple[str, int] | None:
    """Path of the list of layers that `prefix` lies in, and the layer's number; None outside one.

    The outermost number counts: `model.layers.3.mlp.experts.5.` is layer 3 of `model.layers.`.
    """
    number = _NUMBER.search(prefix)
    return (prefix[: number.start()], int(number[0])) if number else None
