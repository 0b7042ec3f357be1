"""The zip archive that `torch.save` makes of one tensor: built, and looked into. Pure.

    archive/data.pkl     a pickle: how the tensor is put together from its storage
    archive/byteorder    little
    archive/version      3
    archive/data/0       the tensor's bytes, stored as they are, at a multiple of 64
    directory            where each of them is

What stands before and behind the bytes depends on dtype and shape alone; the checksum of the
bytes is left at 0, as torch's readers do not check it. Source: `torch/serialization.py`,
`caffe2/serialize/inline_container.cc`, and PKWARE's APPNOTE.TXT, 4.3 and 4.5.3.
"""

import functools
import itertools
import math
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from streamconv.errors import BadCheckpoint, quoted
from streamconv.formats.pickled import PERSISTENT, Global, Object
from streamconv.formats.pickling import write_pickle
from streamconv.formats.safetensors import DTYPE_BITS, MAX_DIMS, MAX_SIZE
from streamconv.formats.unpickling import read_pickle

ALIGNMENT = 64
"""What the bytes' place in the archive is a multiple of."""
WINDOW_BYTES = 1024
"""What is read of an archive at either end; what torch writes there fits."""
MAX_ENTRIES = 64
MAX_PICKLE_BYTES = 65536

REBUILD, REBUILD_TYPED = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3"
UNTYPED = "torch.storage.UntypedStorage"
NO_HOOKS = "collections.OrderedDict"

TORCH_DTYPES: Mapping[str, tuple[str, str | None]] = MappingProxyType(
    {
        "BOOL": ("torch.bool", "torch.BoolStorage"),
        "U8": ("torch.uint8", "torch.ByteStorage"),
        "I8": ("torch.int8", "torch.CharStorage"),
        "I16": ("torch.int16", "torch.ShortStorage"),
        "I32": ("torch.int32", "torch.IntStorage"),
        "I64": ("torch.int64", "torch.LongStorage"),
        "F16": ("torch.float16", "torch.HalfStorage"),
        "BF16": ("torch.bfloat16", "torch.BFloat16Storage"),
        "F32": ("torch.float32", "torch.FloatStorage"),
        "F64": ("torch.float64", "torch.DoubleStorage"),
        "C64": ("torch.complex64", "torch.ComplexFloatStorage"),
        "U16": ("torch.uint16", None),
        "U32": ("torch.uint32", None),
        "U64": ("torch.uint64", None),
        "F8_E5M2": ("torch.float8_e5m2", None),
        "F8_E4M3": ("torch.float8_e4m3fn", None),
        "F8_E8M0": ("torch.float8_e8m0fnu", None),
        "F8_E4M3FNUZ": ("torch.float8_e4m3fnuz", None),
        "F8_E5M2FNUZ": ("torch.float8_e5m2fnuz", None),
    }
)
"""What torch calls a dtype of the safetensors format, and the storage that stands for it in a
pickle; None for the younger ones, which are named themselves."""

_DTYPES = {name: dtype for dtype, (name, _) in TORCH_DTYPES.items()}
_ITEM_BYTES = {dtype: DTYPE_BITS[dtype] // 8 for dtype in TORCH_DTYPES}
_STORAGES = {storage: dtype for dtype, (_, storage) in TORCH_DTYPES.items() if storage}
_ADMITTED = frozenset({*_DTYPES, *_STORAGES, REBUILD, REBUILD_TYPED, UNTYPED, NO_HOOKS, PERSISTENT})

_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_ENTRY = struct.Struct("<4sHHHHHHIIIHHHHHII")
_WIDE_FIELD = struct.Struct("<HHQQ")
_WIDE_END = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR = struct.Struct("<4sIQI")
_END = struct.Struct("<4sHHHHIIH")
_WIDE, _ZIP64, _PADDING = 0xFFFFFFFF, 45, 0x4246
_ENDS_BYTES = _WIDE_END.size + _LOCATOR.size + _END.size


# --- written -----------------------------------------------------------------------------------


@functools.lru_cache(maxsize=256)
def around_tensor(dtype: str, shape: tuple[int, ...]) -> tuple[bytes, bytes]:
    """What stands before and behind the bytes of a contiguous tensor of a dtype and shape."""
    torch_dtype, storage = TORCH_DTYPES[dtype]
    count = math.prod(shape)
    nbytes = count * _ITEM_BYTES[dtype]
    key = ("storage", Global(storage or UNTYPED), "0", "cpu", count if storage else nbytes)
    hooks = Object(NO_HOOKS, ())
    args = (Object(PERSISTENT, key), 0, shape, _strides(shape), False, hooks)
    made = Object(REBUILD, args) if storage else Object(REBUILD_TYPED, (*args, Global(torch_dtype)))
    return _around(write_pickle(made), nbytes)


def archive_of_value(value: Any) -> bytes:
    """The archive of a value without tensors, as `torch.save` stores it."""
    return b"".join(_around(write_pickle(value), None))


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of a contiguous tensor, in elements; an empty dimension counts as one, as in torch."""
    widths = itertools.accumulate((max(n, 1) for n in reversed(shape[1:])), int.__mul__, initial=1)
    return tuple(widths)[::-1] if shape else ()


def _around(pickled: bytes, payload: int | None) -> tuple[bytes, bytes]:
    """Everything before and behind `payload` bytes of a tensor; None for no tensor at all."""
    head, directory = bytearray(), bytearray()
    files = {"data.pkl": pickled, "byteorder": b"little", "version": b"3\n"}
    for name, content in files.items():
        crc = zlib.crc32(content)
        directory += _entry(name, crc, len(content), b"", len(head))
        head += _local(name, crc, len(content), b"") + content
    if payload is not None:
        wide = _WIDE_FIELD.pack(1, 16, payload, payload)
        begin = len(head) + len(_local("data/0", 0, _WIDE, wide)) + 4
        padding = struct.pack("<HH", _PADDING, -begin % ALIGNMENT) + bytes(-begin % ALIGNMENT)
        directory += _entry("data/0", 0, _WIDE, wide, len(head))
        head += _local("data/0", 0, _WIDE, wide + padding)
    count = len(files) + (payload is not None)
    at = len(head) + (payload or 0)
    tail = directory + _WIDE_END.pack(
        b"PK\6\6", _WIDE_END.size - 12, _ZIP64, _ZIP64, 0, 0, count, count, len(directory), at
    )
    tail += _LOCATOR.pack(b"PK\6\7", 0, at + len(directory), 1)
    tail += _END.pack(b"PK\5\6", 0, 0, count, count, len(directory), min(at, _WIDE), 0)
    return bytes(head), bytes(tail)


def _local(name: str, crc: int, size: int, extra: bytes) -> bytes:
    raw = f"archive/{name}".encode()
    fixed = _LOCAL.pack(b"PK\3\4", _ZIP64, 0x800, 0, 0, 0x21, crc, size, size, len(raw), len(extra))
    return fixed + raw + extra


def _entry(name: str, crc: int, size: int, extra: bytes, at: int) -> bytes:
    raw = f"archive/{name}".encode()
    sizes = (crc, size, size, len(raw), len(extra))
    fixed = _ENTRY.pack(b"PK\1\2", 0, _ZIP64, 0x800, 0, 0, 0x21, *sizes, 0, 0, 0, 0, at)
    return fixed + raw + extra


# --- read --------------------------------------------------------------------------------------

ReadAt = Callable[[int, int], bytes]
"""Reads so many bytes from an offset in the archive; fewer only where it ends."""


@dataclass(frozen=True, slots=True)
class Stored:
    """The tensor in an archive."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    """Bytes from the start of the archive to the first of its own."""


def find_tensor(read: ReadAt, nbytes: int, what: str) -> Stored:
    """The tensor in an archive of `nbytes`, contiguous and uncompressed; `what` names it in errors.

    Its pickle is read as data, never run. Raises BadCheckpoint.
    """
    window = _Window(read, nbytes, what)
    members = _members(window)
    if "data.pkl" not in members:
        raise window.refusal("it has no data.pkl")
    order = members.get("byteorder")
    if order and window.bytes_at(*order.place(window)) != b"little":
        raise window.refusal("its numbers are big-endian")
    begin, size = members["data.pkl"].place(window)
    if size > MAX_PICKLE_BYTES:
        raise window.refusal(f"its pickle has {size} bytes")
    try:
        layout = _layout(window.bytes_at(begin, size))
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
    begin, size = data.place(window)
    item = _ITEM_BYTES[layout.dtype]
    if (layout.offset + math.prod(layout.shape)) * item > size:
        raise window.refusal(f"its data has {size} bytes, too few for {list(layout.shape)}")
    return Stored(layout.dtype, layout.shape, begin + layout.offset * item)


class _Window:
    """The two ends of an archive, and what has to be read in between."""

    def __init__(self, read: ReadAt, nbytes: int, what: str) -> None:
        self._read = read
        self._what = what
        self.nbytes = nbytes
        self._tail_at = max(nbytes - WINDOW_BYTES, 0)
        self._tail = read(self._tail_at, min(nbytes, WINDOW_BYTES))
        self._head = read(0, WINDOW_BYTES) if self._tail_at else self._tail

    def bytes_at(self, offset: int, count: int) -> bytes:
        end = offset + count
        if not 0 <= offset <= end <= self.nbytes:
            raise self.refusal(f"bytes {offset} to {end} are outside of it")
        if end <= len(self._head):
            return self._head[offset:end]
        if offset >= self._tail_at:
            return self._tail[offset - self._tail_at : end - self._tail_at]
        return self._read(offset, count)

    def refusal(self, fact: str) -> BadCheckpoint:
        return BadCheckpoint(f"{self._what}: not a tensor as torch.save stores it: {fact}")


@dataclass(frozen=True, slots=True)
class _Member:
    local: int
    size: int

    def place(self, window: _Window) -> tuple[int, int]:
        """Where its content begins, and its size."""
        fields = _LOCAL.unpack(window.bytes_at(self.local, _LOCAL.size))
        if fields[0] != b"PK\3\4":
            raise window.refusal(f"there is no file at byte {self.local}")
        begin = self.local + _LOCAL.size + fields[9] + fields[10]
        if begin + self.size > window.nbytes:
            raise window.refusal(
                f"a file in it ends at {begin + self.size}, it has {window.nbytes}"
            )
        return begin, self.size


def _members(window: _Window) -> dict[str, _Member]:
    """The files in an archive, by name below its folder."""
    if window.nbytes < _END.size:
        raise window.refusal(f"{window.nbytes} bytes are too few")
    end = _END.unpack(window.bytes_at(window.nbytes - _END.size, _END.size))
    if end[0] != b"PK\5\6":
        raise window.refusal("no zip directory at its end: cut short, or another format")
    count, size, at = end[4:7]
    if window.nbytes >= _ENDS_BYTES:
        wide = _WIDE_END.unpack(window.bytes_at(window.nbytes - _ENDS_BYTES, _WIDE_END.size))
        if wide[0] == b"PK\6\6":
            count, size, at = wide[7:10]
    if count > MAX_ENTRIES:
        raise window.refusal(f"it holds {count} files")
    raw = window.bytes_at(at, size)
    members: dict[str, _Member] = {}
    position = 0
    for _ in range(count):
        if len(raw) - position < _ENTRY.size:
            raise window.refusal("its directory ends too early")
        fields = _ENTRY.unpack_from(raw, position)
        flags, method = fields[3:5]
        stored, length, name_bytes, extra_bytes, note_bytes = fields[8:13]
        name_at = position + _ENTRY.size
        name = raw[name_at : name_at + name_bytes].decode("utf-8", "replace").partition("/")[2]
        extra = raw[name_at + name_bytes :][:extra_bytes]
        if fields[0] != b"PK\1\2" or method or flags & 1 or stored != length or name in members:
            raise window.refusal(f"{quoted(name)} in it is compressed, encrypted or there twice")
        members[name] = _Member(*_wide(window, fields[16], length, extra))
        position = name_at + name_bytes + extra_bytes + note_bytes
    return members


def _wide(window: _Window, local: int, size: int, extra: bytes) -> tuple[int, int]:
    """Offset and size of an entry, from its 64-bit field where they do not fit."""
    position = 0
    while _WIDE in (local, size) and position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        values = extra[position + 4 : position + 4 + length]
        if kind == 1:
            numbers = [n for (n,) in struct.iter_unpack("<Q", values[: len(values) // 8 * 8])]
            wanted = 2 * (size == _WIDE) + (local == _WIDE)
            if len(numbers) < wanted:
                break
            size = numbers[0] if size == _WIDE else size
            local = numbers[wanted - 1] if local == _WIDE else local
            return local, size
        position += 4 + length
    if _WIDE in (local, size):
        raise window.refusal("its directory lacks a 64-bit size")
    return local, size


@dataclass(frozen=True, slots=True)
class _Layout:
    """What an archive's pickle says of the tensor."""

    dtype: str
    key: str
    offset: int
    """Elements of the storage before the first of the tensor's."""
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@functools.lru_cache(maxsize=256)
def _layout(raw: bytes) -> _Layout:
    """Chunks of one size have the same pickle, and a checkpoint has few sizes of many chunks."""
    made = read_pickle(raw, _ADMITTED, "its pickle")
    try:
        args = made.args
        storage, offset, shape, strides = args[:4]
        if made.name not in (REBUILD, REBUILD_TYPED) or storage.name != PERSISTENT:
            raise TypeError
        kind, storage_class, key = storage.args[:3]
        if made.name == REBUILD_TYPED:
            dtype = _DTYPES[args[6].name]
        else:
            dtype = _STORAGES[storage_class.name]
        shape, strides = sizes(shape), sizes(strides)
        if kind != "storage" or not isinstance(key, str) or len(shape) != len(strides):
            raise TypeError
        (offset,) = sizes((offset,))
    except (AttributeError, TypeError, ValueError, IndexError, KeyError):
        raise BadCheckpoint("its pickle does not describe a plain tensor") from None
    return _Layout(dtype, key, offset, shape, strides)


def sizes(values: Any) -> tuple[int, ...]:
    """`values` as sizes or offsets of a tensor; raises TypeError where they are none."""
    if not isinstance(values, tuple) or len(values) > MAX_DIMS:
        raise TypeError
    if any(type(value) is not int or not 0 <= value < MAX_SIZE for value in values):
        raise TypeError
    return values


def _is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    there = zip(shape, strides, _strides(shape), strict=True)
    return 0 in shape or all(n == 1 or stride == width for n, stride, width in there)
