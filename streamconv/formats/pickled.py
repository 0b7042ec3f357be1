"""Pickles as data: read without being run, written without what they name. Pure.

A pickle is a program that makes its reader call whatever it names. The reader here calls
nothing: what would be called with what becomes an `Object`, for the caller to look at, and a
name that the caller does not admit is refused. Only what `pickle.dump` writes for plain values
is understood, keys of dictionaries are text, numbers or objects, and nothing is hashed,
compared or walked in depth, so that time and memory stay linear in the pickle's length.
Source of the opcodes: `pickletools` of Python's library.
"""

import struct
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from streamconv.errors import BadCheckpoint, quoted

PERSISTENT = "persistent id"
"""Stands for the name of what a pickle refers to from outside of it."""
_MISSING = object()


@dataclass(frozen=True, slots=True)
class Global:
    """Something that is only named, such as `torch.bfloat16`."""

    name: str


@dataclass(eq=False, slots=True)
class Object:
    """What a call makes: of `name` with `args`, or a new one of class `name` with a `state`."""

    name: str
    args: Any
    state: Any = None


@dataclass(frozen=True, slots=True)
class Pairs:
    """A dictionary that is written pair by pair, so that it need not be in memory."""

    pairs: Iterable[tuple[Any, Any]]


def read_pickle(raw: bytes, admitted: Collection[str], what: str) -> Any:
    """The value in a pickle whose names are all `admitted`; `what` names it in errors.

    Raises BadCheckpoint.
    """
    return _Machine(raw, admitted, what).run()


class _Machine:
    """Stack, marks and memo, as the opcodes want them."""

    def __init__(self, raw: bytes, admitted: Collection[str], what: str) -> None:
        self._raw = raw
        self._admitted = admitted
        self._what = what
        self._position = 0
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        """What lay on the stack when each mark was set."""
        self._memo: dict[int, Any] = {}
        self._globals: dict[str, Global] = {}

    def run(self) -> Any:
        raw, ops = self._raw, _OPS
        try:
            while True:
                op = raw[self._position]
                self._position += 1
                if op == _STOP:
                    return self._stack.pop()
                ops[op](self)
        except IndexError:
            raise self._refusal("it ends too early, or takes what is not there") from None
        except KeyError:
            raise self._refusal("it does what no plain value needs") from None
        except UnicodeDecodeError:
            raise self._refusal("text that is not UTF-8") from None

    def _refusal(self, fact: str) -> BadCheckpoint:
        return BadCheckpoint(
            f"{self._what}: not a pickle of a checkpoint: {fact} (byte {self._position})",
            "nothing in it has been run",
        )

    def _take(self, nbytes: int) -> bytes:
        taken = self._raw[self._position : self._position + nbytes]
        if len(taken) < nbytes:
            raise IndexError
        self._position += nbytes
        return taken

    def _uint(self, nbytes: int) -> int:
        return int.from_bytes(self._take(nbytes), "little")

    def _line(self) -> str:
        end = self._raw.find(b"\n", self._position)
        if end < 0:
            raise IndexError
        text = self._take(end - self._position).decode("utf-8")
        self._position += 1
        return text

    def _to_mark(self) -> list[Any]:
        above, self._stack = self._stack, self._below.pop()
        return above

    def constant(self, value: Any) -> None:
        self._stack.append(value)

    def uint(self, nbytes: int) -> None:
        self._stack.append(self._uint(nbytes))

    def signed(self) -> None:
        self._stack.append(int.from_bytes(self._take(4), "little", signed=True))

    def long(self) -> None:
        self._stack.append(int.from_bytes(self._take(self._uint(1)), "little", signed=True))

    def real(self) -> None:
        self._stack.append(struct.unpack(">d", self._take(8))[0])

    def text(self, length_bytes: int) -> None:
        self._stack.append(self._take(self._uint(length_bytes)).decode("utf-8", "surrogatepass"))

    def skip(self, nbytes: int) -> None:
        self._take(nbytes)

    def mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []

    def empty_list(self) -> None:
        self._stack.append([])

    def empty_dict(self) -> None:
        self._stack.append({})

    def last(self, count: int) -> None:
        """A tuple of the last so many."""
        if len(self._stack) < count:
            raise IndexError
        self._stack[-count:] = [tuple(self._stack[-count:])]

    def marked_tuple(self) -> None:
        values = tuple(self._to_mark())
        self._stack.append(values)

    def append(self) -> None:
        value = self._stack.pop()
        self._of_type(list).append(value)

    def appends(self) -> None:
        values = self._to_mark()
        self._of_type(list).extend(values)

    def set_item(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set(self._of_type(dict), [key, value])

    def set_items(self) -> None:
        values = self._to_mark()
        self._set(self._of_type(dict), values)

    def _set(self, target: dict[Any, Any], values: list[Any]) -> None:
        for key, value in zip(values[::2], values[1::2], strict=False):
            if not isinstance(key, str | int | Object):
                raise self._refusal("a key that is neither text nor number nor object")
            target[key] = value
        if len(values) % 2:
            raise IndexError

    def _of_type(self, kind: Any) -> Any:
        if type(self._stack[-1]) is not kind:
            raise self._refusal(f"something is put into what is not a {kind.__name__}")
        return self._stack[-1]

    def memoize(self) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def put(self, nbytes: int) -> None:
        self._memo[self._uint(nbytes)] = self._stack[-1]

    def get(self, nbytes: int) -> None:
        value = self._memo.get(self._uint(nbytes), _MISSING)
        if value is _MISSING:
            raise IndexError
        self._stack.append(value)

    def global_line(self) -> None:
        module, name = self._line(), self._line()
        self._name(module, name)

    def global_from_stack(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(module, str) or not isinstance(name, str):
            raise self._refusal("a name that is not text")
        self._name(module, name)

    def _name(self, module: str, name: str) -> None:
        full = f"{module}.{name}"
        if full not in self._admitted:
            raise BadCheckpoint(
                f"{self._what}: it names {quoted(full)}, which no checkpoint needs",
                "it was not imported, and nothing was run: do not load this file with torch",
            )
        self._stack.append(self._globals.setdefault(full, Global(full)))

    def call(self) -> None:
        args, called = self._stack.pop(), self._stack.pop()
        if not isinstance(called, Global) or not isinstance(args, tuple):
            raise self._refusal("something is called that is not a name, or not with arguments")
        self._stack.append(Object(called.name, args))

    def build(self) -> None:
        state = self._stack.pop()
        self._of_type(Object).state = state

    def persistent(self) -> None:
        if PERSISTENT not in self._admitted:
            raise self._refusal("it refers to something outside of it")
        self._stack.append(Object(PERSISTENT, self._stack.pop()))


_STOP = ord(".")
_OPS: Mapping[int, Callable[[_Machine], None]] = {
    0x80: lambda m: m.skip(1),  # PROTO
    0x95: lambda m: m.skip(8),  # FRAME
    ord("N"): lambda m: m.constant(None),
    0x88: lambda m: m.constant(True),
    0x89: lambda m: m.constant(False),
    ord("J"): _Machine.signed,
    ord("K"): lambda m: m.uint(1),
    ord("M"): lambda m: m.uint(2),
    0x8A: _Machine.long,
    ord("G"): _Machine.real,
    0x8C: lambda m: m.text(1),
    ord("X"): lambda m: m.text(4),
    0x8D: lambda m: m.text(8),
    ord("("): _Machine.mark,
    ord(")"): lambda m: m.constant(()),
    0x85: lambda m: m.last(1),
    0x86: lambda m: m.last(2),
    0x87: lambda m: m.last(3),
    ord("t"): _Machine.marked_tuple,
    ord("]"): _Machine.empty_list,
    ord("a"): _Machine.append,
    ord("e"): _Machine.appends,
    ord("}"): _Machine.empty_dict,
    ord("s"): _Machine.set_item,
    ord("u"): _Machine.set_items,
    0x94: _Machine.memoize,
    ord("q"): lambda m: m.put(1),
    ord("r"): lambda m: m.put(4),
    ord("h"): lambda m: m.get(1),
    ord("j"): lambda m: m.get(4),
    ord("c"): _Machine.global_line,
    0x93: _Machine.global_from_stack,
    ord("R"): _Machine.call,
    0x81: _Machine.call,  # NEWOBJ
    ord("b"): _Machine.build,
    ord("Q"): _Machine.persistent,
}
"""Opcodes by their byte. No other is needed to pickle a checkpoint's metadata or a tensor."""


def write_pickle(value: Any) -> bytes:
    """A pickle of `value`, in protocol 2, which every reader of torch understands.

    `value` is made of None, bool, int, float, text, tuples, lists, dictionaries, `Pairs`,
    `Global` and `Object`. One with a state is made by its class's `__new__`, one without by a call.
    """
    writer = _Writer()
    writer.write(value)
    return bytes(writer.out + b".")


class _Writer:
    def __init__(self) -> None:
        self.out = bytearray(b"\x80\x02")
        self._memo: dict[str | Global, int] = {}
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
        if not self._again(value):
            raw = value.encode("utf-8", "surrogatepass")
            self.out += struct.pack("<cI", b"X", len(raw)) + raw
            self._remember(value)

    def _global(self, value: Global) -> None:
        if not self._again(value):
            module, _, name = value.name.rpartition(".")
            self.out += f"c{module}\n{name}\n".encode()
            self._remember(value)

    def _again(self, value: str | Global) -> bool:
        """Whether it has been written before and is now written as a reference to that."""
        place = self._memo.get(value)
        if place is not None:
            self.out += _numbered(b"h", b"j", place)
        return place is not None

    def _remember(self, value: str | Global) -> None:
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
        self._global(Global(value.name))
        self.write(value.args)
        if value.state is None:
            self.out += b"R"
        else:
            self.out += b"\x81"
            self.write(value.state)
            self.out += b"b"


def _numbered(short: bytes, wide: bytes, number: int) -> bytes:
    return short + bytes([number]) if number < 256 else wide + struct.pack("<I", number)
