"""Finds the tensor in an archive of `torch.save`, without running its pickle."""

import functools
import math
from dataclasses import dataclass

from streamconv.errors import BadCheckpoint, quoted
from streamconv.formats.pickle_reader import read_pickle
from streamconv.formats.pickle_types import PERSISTENT
from streamconv.formats.torch_archive import (
    ITEM_BYTES,
    NO_HOOKS,
    REBUILD,
    REBUILD_TYPED,
    TORCH_DTYPES,
    UNTYPED,
    sizes,
    strides_of,
)
from streamconv.formats.zip_reader import ZipMember, read_directory
from streamconv.formats.zip_window import ReadAt, Window

MAX_PICKLE_BYTES = 65536
"""The pickle of one tensor has a few hundred bytes."""
_VERSIONS = range(1, 11)
"""The versions of the archive that torch reads."""
_ALIGNMENTS = range(1, 10_000)

_DTYPES = {name: dtype for dtype, (name, _) in TORCH_DTYPES.items()}
_STORAGES = {storage: dtype for dtype, (_, storage) in TORCH_DTYPES.items() if storage}
_ADMITTED = frozenset({*_DTYPES, *_STORAGES, REBUILD, REBUILD_TYPED, UNTYPED, NO_HOOKS, PERSISTENT})


@dataclass(frozen=True, slots=True)
class ArchivedTensor:
    """The tensor in an archive."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    """Bytes from the start of the archive to the first of the tensor's."""


def find_tensor(read: ReadAt, nbytes: int, label: str) -> ArchivedTensor:
    """Find the contiguous, uncompressed tensor in an archive. Its pickle is not run.

    Args:
        read: Returns bytes of the archive.
        nbytes: Size of the archive.
        label: Names the archive in errors.

    Raises:
        BadCheckpoint: The archive is no such tensor, or is damaged.
    """
    window = Window(read, nbytes, label)
    members = _read_records(window)
    begin, size = members["data.pkl"].locate(window)
    try:
        layout = _parse_layout(window.bytes_at(begin, size))
    except BadCheckpoint as error:
        raise window.refusal(error.message) from None
    data = members.get(f"data/{layout.key}")
    if data is None:
        raise window.refusal("it has no data")
    if not _is_contiguous(layout.shape, layout.strides):
        raise window.refusal(
            f"it is stored with the strides {list(layout.strides)}, "
            f"not contiguous for its shape {list(layout.shape)}"
        )
    begin, size = data.locate(window)
    item_bytes = ITEM_BYTES[layout.dtype]
    if layout.storage_bytes != size:
        raise window.refusal(f"its data has {size} bytes, its pickle says {layout.storage_bytes}")
    if (layout.offset + math.prod(layout.shape)) * item_bytes > size:
        raise window.refusal(f"its data has {size} bytes, too few for {list(layout.shape)}")
    return ArchivedTensor(layout.dtype, layout.shape, begin + layout.offset * item_bytes)


def check_value(read: ReadAt, nbytes: int, label: str) -> None:
    """Refuse the archive of a value without tensors unless it is intact. Its pickle is not run.

    Args:
        read: Returns bytes of the archive.
        nbytes: Size of the archive.
        label: Names the archive in errors.

    Raises:
        BadCheckpoint: The archive is damaged.
    """
    _read_records(Window(read, nbytes, label))


def _read_records(window: Window) -> dict[str, ZipMember]:
    """Return the files in an archive. Raises BadCheckpoint if torch would not load it as it is.

    The checksums of all files but the data are checked, unless all are 0: then the archive was
    saved without them, as `torch.utils.serialization.config` allows.
    """
    members = read_directory(window)
    if "data.pkl" not in members or "constants.pkl" in members:
        raise window.refusal("it has no data.pkl, or is a program of TorchScript")
    has_checksums = any(member.checksum for member in members.values())
    records = {name: m for name, m in members.items() if not name.startswith("data/")}
    for name, member in records.items():
        if member.size > MAX_PICKLE_BYTES:
            raise window.refusal(f"{quoted(name)} in it has {member.size} bytes")
        if has_checksums and not member.is_intact(window):
            raise window.refusal(f"{quoted(name)} in it does not have its checksum")
        if name != "data.pkl" and not window.bytes_at(*member.locate(window)).isascii():
            raise window.refusal(f"{quoted(name)} in it is not text")
    version = ".data/version" if ".data/version" in records else "version"
    for name, numbers in ((version, _VERSIONS), (".storage_alignment", _ALIGNMENTS)):
        if name == version or name in records:
            found = records.get(name)
            text = window.bytes_at(*found.locate(window)).strip() if found else b""
            if not text.isdigit() or len(text) > 4 or int(text) not in numbers:
                raise window.refusal(f"its {name} is {quoted(text.decode('utf-8', 'replace'))}")
    order = records.get("byteorder")
    if order and window.bytes_at(*order.locate(window)) != b"little":
        raise window.refusal("its numbers are big-endian")
    return members


@dataclass(frozen=True, slots=True)
class _Layout:
    """A tensor as the pickle of its archive describes it."""

    dtype: str
    key: str
    """Name of its storage: the file `data/<key>`."""
    storage_bytes: int
    offset: int
    """Elements of the storage before the first of the tensor's."""
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """In elements."""


@functools.lru_cache(maxsize=256)
def _parse_layout(raw: bytes) -> _Layout:
    """Parse the pickle of an archive. Raises BadCheckpoint.

    Cached, because chunks of one shape have the same pickle, and a checkpoint has few shapes.
    """
    tensor = read_pickle(raw, _ADMITTED, "its pickle")
    try:
        typed = tensor.name == REBUILD_TYPED
        # with one more argument, torch negates the values or takes their conjugates
        storage, offset, shape, strides, needs_gradient, hooks, *rest = tensor.args
        if tensor.name not in (REBUILD, REBUILD_TYPED) or storage.name != PERSISTENT:
            raise TypeError
        kind, storage_class, key, device, count = storage.args
        (count,) = sizes((count,))
        if typed:
            (torch_dtype,) = rest
            dtype, item_bytes = _DTYPES[torch_dtype.name], 1
        else:
            dtype = _STORAGES[storage_class.name]
            item_bytes = ITEM_BYTES[dtype]
        if typed != (storage_class.name == UNTYPED) or bool(rest) != typed:
            raise TypeError
        if (hooks.name, hooks.args, hooks.state) != (NO_HOOKS, (), None):
            raise TypeError
        if not isinstance(needs_gradient, bool) or not isinstance(device, str):
            raise TypeError
        shape, strides = sizes(shape), sizes(strides)
        if kind != "storage" or not isinstance(key, str) or len(shape) != len(strides):
            raise TypeError
        (offset,) = sizes((offset,))
    except (AttributeError, TypeError, ValueError, IndexError, KeyError):
        raise BadCheckpoint("its pickle does not describe a plain tensor") from None
    return _Layout(dtype, key, count * item_bytes, offset, shape, strides)


def _is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Return True if the elements lie in C order without gaps. The stride of a size 1 is free."""
    expected = zip(shape, strides, strides_of(shape), strict=True)
    return 0 in shape or all(n == 1 or stride == width for n, stride, width in expected)
