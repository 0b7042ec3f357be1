"""A checkpoint as its headers describe it: every tensor, every other file, the config."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from streamconv.checkpoint.decoding import Decoding
from streamconv.checkpoint.encoding import Encoding, View
from streamconv.checkpoint.layout_record import Record
from streamconv.errors import quoted

INDEX_SUFFIX = ".safetensors.index.json"
INDEX = f"model{INDEX_SUFFIX}"
MANIFEST = "streamconv.json"
DIGEST = "xxh3-128"
"""The checksum of every piece and file, as the manifest names it."""
JOURNAL_PREFIX = "streamconv-journal-"
"""Begins the names of files of an unfinished run. They are never copied from a source."""

PARTIAL_SUFFIX = ".streamconv-partial"
"""Ends the name of the folder in which a result is built."""


class TensorInfo(NamedTuple):
    """A tensor, and where its bytes are.

    It is a tuple, which is made in a third of the time of a dataclass: a checkpoint has a million.
    """

    name: str
    """Name in the checkpoint."""
    dtype: str
    """A dtype of the safetensors format, such as `BF16`."""
    shape: tuple[int, ...]
    """Elements on each dimension."""
    file: str
    """Name of the file in the checkpoint."""
    offset: int
    """Bytes from the start of the file."""
    nbytes: int
    """Size in bytes."""
    cast: "Cast | None" = None
    """The cast that `dtype`, `shape` and `nbytes` are the result of; None for a stored tensor."""

    @property
    def elements(self) -> int:
        """Number of its elements."""
        return math.prod(self.shape)

    @property
    def stored(self) -> "tuple[TensorInfo, ...]":
        """The stored tensors that it is read from: itself, or those of its cast."""
        if self.cast is None:
            return (self,)
        return (*self.cast.stored.stored, *self.cast.companions)


@dataclass(frozen=True, slots=True)
class Cast:
    """The origin of a tensor whose elements change their dtype as they are read."""

    stored: TensorInfo
    """The elements, or the codes of a weight that is dequantized."""
    companions: tuple[TensorInfo, ...] = ()
    """Tensors that are read together with the codes, in the order of `decoding.planes`."""
    decoding: Decoding | None = None
    """How a weight is dequantized; None for a cast from one dtype to another."""
    dropped: tuple[TensorInfo, ...] = ()
    """Tensors without a meaning once the weight is dequantized: scales of activations."""
    encoding: Encoding | None = None
    """How the elements are quantized; None if they are not."""
    view: View | None = None
    """Where they are in `stored`; None if they are all of it."""

    @property
    def is_of_dtype(self) -> bool:
        """True if it only converts each element to another dtype."""
        return self.decoding is None and self.encoding is None and self.view is None

    @property
    def is_view(self) -> bool:
        """True if it only takes a part of `stored`, and changes no element."""
        return self.view is not None and self.encoding is None


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
    """A file without tensors."""

    name: str
    """Path below the checkpoint, with slashes."""
    size: int
    skip_reason: str = ""
    """Why it is not copied; empty if it is."""
    is_entry: bool = False
    """True if it is no file, but an entry of a DCP's state dict, in the files of tensors."""


@dataclass(frozen=True, slots=True)
class UnlistedFile:
    """A file of tensors that the index leaves out, so that no reader of the index sees it."""

    name: str
    tensors: tuple[TensorInfo, ...]
    """The tensors that its header describes; empty if the header cannot be read."""

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(info.nbytes for info in self.tensors)


@dataclass(frozen=True, slots=True)
class AppliedRename:
    """A rename that the user asked for."""

    text: str
    """As it was asked for: `OLD=NEW`."""
    count: int
    """How many names it changed."""


@dataclass(frozen=True, slots=True)
class ReferenceCheckpoint:
    """A template: a checkpoint that completes another one."""

    location: str
    names: str
    """The form whose names its tensors have."""
    filled: frozenset[str]
    """Names of the tensors taken from it, as the completed checkpoint calls them."""
    nbytes: int
    """Bytes of these tensors."""
    unknown: tuple[str, ...] = ()
    """Names of the tensors of the completed checkpoint that the template does not have."""
    namings: Mapping[str, str] = field(default_factory=dict)
    """The naming of each stack whose naming it shows or records, by its pattern in hub names."""
    is_dequantized: bool = False
    """True if it has quantized weights that the completed checkpoint has unquantized."""
    tied: tuple[str, ...] = ()
    """Names of its heads that are left out, as they are tied to embeddings that were trained."""
    maybe_tied: tuple[str, ...] = ()
    """Names of its heads that are filled in, and may be tied: config.json does not say."""
    local_paths: tuple[str, ...] = ()
    """The paths of this machine that it is read from, as in `Checkpoint`."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The input of a plan: everything that headers and JSON files say. Holds no tensor data."""

    location: str
    """The location, as the user gave it."""
    tensors: Mapping[str, TensorInfo]
    """Every tensor, by name."""
    files: tuple[SourceFile, ...]
    """The files that hold its tensors."""
    others: tuple[OtherFile, ...]
    """All other files, including those that are not copied."""
    config: Mapping[str, Any]
    """Content of config.json; empty if there is none."""
    record: Record | None
    """Its layouts, if streamconv wrote it."""
    total_bytes: int
    """Bytes of all tensors, headers excluded."""
    config_text: bytes = b""
    """The bytes of config.json; empty if it is not a file."""
    format: str = "safetensors"
    """Format of the files, as `--format` calls it."""
    revision: str | None = None
    """Commit, if it is read from a repository."""
    read_scratch_bytes: int = 0
    """Bytes that each worker needs to read, in addition to the buffer that it reads into."""
    metadata_bytes: int = 0
    """Bytes of memory that reading the `.metadata` of a DCP takes."""
    local_paths: tuple[str, ...] = ()
    """The absolute paths of this machine that it is read from: a folder that its files are below,
    or what holds them in another way, such as an archive or a cache."""
    remote: frozenset[str] = frozenset()
    """Names of the files that are not on this machine: reading them is a transfer."""
    manifest: Mapping[str, Any] = field(default_factory=dict)
    """The manifest, if it is inside of another file, as in a DCP; else empty."""
    undigested: tuple[str, ...] = ()
    """Files that readers rely on although no digest of them was recorded."""
    quant_config: Mapping[str, Any] = field(default_factory=dict)
    """The content of `hf_quant_config.json`."""
    template: ReferenceCheckpoint | None = None
    """The template that its config and other files are from, if there is one."""
    unlisted: tuple[UnlistedFile, ...] = ()
    """Files of tensors that the index leaves out, and that are not read."""
    added: tuple[str, ...] = ()
    """Names of the files that the index leaves out, but whose tensors are in `tensors`."""
    unindexed: tuple[str, ...] = ()
    """Names of tensors in `tensors` that the index does not list, though it lists their files."""
    index_total_size: Any = None
    """What the index says of the bytes of all tensors, whatever that is; None for nothing."""
    renames: tuple[AppliedRename, ...] = ()
    """The user's renames that its tensors have undergone, in order."""
    contradictions: tuple[str, ...] = ()
    """Contradictions between its files, as sentences. Empty if it may be converted."""

    @property
    def has_dequantized_template(self) -> bool:
        """True if what its template fills may be cast, although no cast was asked for."""
        return self.template is not None and self.template.is_dequantized

    def __repr__(self) -> str:
        tensors, files = f"{len(self.tensors):,} tensors", f"{len(self.files):,} files"
        return f"<Checkpoint {quoted(self.location)}: {tensors} in {files}>"
