"""Pickles of values whose classes are only named, not imported.

    80 02                           protocol 2, which every reader of torch understands
    c torch\\n Size\\n q 0             push the name torch.Size, remember it as number 0
    ( K 2 K 3 t                     push the tuple (2, 3)
    ( ... t R q 1                   call the name with arguments, remember the result
    h 1                             push what is remembered as number 1
    .                               stop: the value is on top of the stack

Source of the opcodes: `pickletools` of Python's library.
"""

import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from streamconv.formats.pickle_types import PERSISTENT, Global, Object


@dataclass(frozen=True, slots=True)
class Pairs:
    """A dictionary that is written pair by pair, so that it is never in memory as a whole."""

    pairs: Iterable[tuple[Any, Any]]


def write_pickle(value: Any) -> bytes:
    """Return a pickle of `value`.

    `value` consists of None, bool, int, float, str, tuple, list, dict, `Pairs`, `Global` and
    `Object`. An `Object` with a state is written as `cls.__new__(cls, *args)` and its state. One
    without a state is written as a call; if it occurs again, as a reference to the first.
    """
    return bytes(pickle_buffer(value))


def pickle_buffer(value: Any) -> bytearray:
    """Return a pickle of `value` in a buffer that may be changed, so that it is not copied."""
    writer = _Writer()
    writer.write(value)
    writer.out += b"."
    return writer.out


class _Writer:
    """The pickle so far, and the memo of what can be referred to."""

    def __init__(self) -> None:
        self.out = bytearray(b"\x80\x02")
        self._memo: dict[str | Global | Object, int] = {}
        self._kinds: Mapping[type, Callable[[Any], None]] = {
            type(None): lambda _: self.out.extend(b"N"),
            bool: lambda value: self.out.extend(b"\x88" if value else b"\x89"),
            int: self._int,
            float: lambda value: self.out.extend(struct.pack(">cd", b"G", value)),
            str: self._text,
            tuple: self._tuple,
            list: self._list,
            dict: lambda value: self._pairs(value.items()),
            Pairs: lambda value: self._pairs(value.pairs),
            Global: self._global,
            Object: self._object,
        }

    def write(self, value: Any) -> None:
        self._kinds[type(value)](value)

    def _int(self, value: int) -> None:
        if 0 <= value < 256:
            self.out += struct.pack("<cB", b"K", value)
        elif 0 <= value < 2**31:
            self.out += struct.pack("<ci", b"J", value)
        else:
            raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            self.out += struct.pack("<cB", b"\x8a", len(raw)) + raw

    def _text(self, value: str) -> None:
        if not self._refer(value):
            raw = value.encode("utf-8", "surrogatepass")
            self.out += struct.pack("<cI", b"X", len(raw)) + raw
            self._remember(value)

    def _global(self, value: Global) -> None:
        if not self._refer(value):
            module, _, name = value.name.rpartition(".")
            self.out += f"c{module}\n{name}\n".encode()
            self._remember(value)

    def _refer(self, value: str | Global | Object) -> bool:
        """Write a reference to a value that has been written before; return False for a new one."""
        number = self._memo.get(value)
        if number is not None:
            self.out += _numbered(b"h", b"j", number)
        return number is not None

    def _remember(self, value: str | Global | Object) -> None:
        self.out += _numbered(b"q", b"r", len(self._memo))
        self._memo[value] = len(self._memo)

    def _tuple(self, value: tuple[Any, ...]) -> None:
        if not value:
            self.out += b")"
            return
        self.out += b"("
        for each in value:
            self.write(each)
        self.out += b"t"

    def _list(self, value: list[Any]) -> None:
        self.out += b"]("
        for each in value:
            self.write(each)
        self.out += b"e"

    def _pairs(self, pairs: Iterable[tuple[Any, Any]]) -> None:
        self.out += b"}("
        for key, value in pairs:
            self.write(key)
            self.write(value)
        self.out += b"u"

    def _object(self, value: Object) -> None:
        if value.name == PERSISTENT:
            self.write(value.args)
            self.out += b"Q"
            return
        if value.state is None and self._refer(value):
            return
        self._global(Global(value.name))
        self.write(value.args)
        if value.state is None:
            self.out += b"R"
            self._remember(value)
        else:
            self.out += b"\x81"
            self.write(value.state)
            self.out += b"b"


def _numbered(short: bytes, wide: bytes, number: int) -> bytes:
    """Return an opcode and its number, in one byte or four."""
    return short + bytes([number]) if number < 256 else wide + struct.pack("<I", number)
