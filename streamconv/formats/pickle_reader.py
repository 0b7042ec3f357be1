"""Pickles as data: read without being run. Pure.

A pickle is a program that makes its reader call whatever it names. The reader here calls
nothing: what would be called with what becomes an `Object`, for the caller to look at, and a
name that the caller does not admit is refused. Only what `pickle.dump` writes for plain values
is understood, keys of dictionaries are text, numbers or objects, and nothing is hashed,
compared or walked in depth, so that time and memory stay linear in the pickle's length.
Source of the opcodes: `pickletools` of Python's library.
"""

import struct
from collections.abc import Callable, Collection, Mapping
from typing import Any

from streamconv.errors import BadCheckpoint, quoted
from streamconv.formats.pickle_types import PERSISTENT, Global, Object


def read_pickle(raw: bytes, admitted: Collection[str], what: str) -> Any:
    """The value in a pickle whose names are all `admitted`; `what` names it in errors.

    Raises BadCheckpoint.
    """
    machine = _Machine(raw, admitted, what)
    try:
        return machine.run()
    except (IndexError, struct.error):
        raise machine.refusal("it ends too early, or takes what is not there") from None
    except UnicodeDecodeError:
        raise machine.refusal("text that is not UTF-8") from None


class _Machine:
    """Stack, marks and memo, as the opcodes want them."""

    __slots__ = ("admitted", "below", "globals", "memo", "position", "raw", "stack", "what")

    def __init__(self, raw: bytes, admitted: Collection[str], what: str) -> None:
        self.raw = raw
        self.admitted = admitted
        self.what = what
        self.position = 0
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        """What lay on the stack when each mark was set."""
        self.memo: list[Any] = []
        self.globals: dict[str, Global] = {}

    def run(self) -> Any:
        raw, ops = self.raw, _OPS
        while (op := raw[self.position]) != _STOP:
            self.position += 1
            ops[op](self)
        return self.stack.pop()

    def refusal(self, fact: str) -> BadCheckpoint:
        return BadCheckpoint(
            f"{self.what}: not a pickle of a checkpoint: {fact} (byte {self.position})",
            "nothing in it has been run",
        )

    def take(self, nbytes: int) -> bytes:
        """The next bytes of the pickle."""
        begin = self.position
        taken = self.raw[begin : begin + nbytes]
        if len(taken) < nbytes:
            raise IndexError
        self.position = begin + nbytes
        return taken

    def number(self, form: struct.Struct) -> Any:
        """The next number of the pickle."""
        (number,) = form.unpack_from(self.raw, self.position)
        self.position += form.size
        return number

    def line(self) -> str:
        end = self.raw.find(b"\n", self.position)
        if end < 0:
            raise IndexError
        text = self.take(end - self.position).decode("utf-8")
        self.position += 1
        return text

    def to_mark(self) -> list[Any]:
        """What lies above the last mark, which is taken away."""
        above, self.stack = self.stack, self.below.pop()
        return above

    def top(self, kind: Any) -> Any:
        """What lies on top, where it is of that kind."""
        if type(self.stack[-1]) is not kind:
            raise self.refusal(f"something is put into what is not a {kind.__name__}")
        return self.stack[-1]

    def name(self, module: str, name: str) -> None:
        full = f"{module}.{name}"
        if full not in self.admitted:
            raise BadCheckpoint(
                f"{self.what}: it names {quoted(full)}, which no checkpoint needs",
                "it was not imported, and nothing was run: do not load this file with torch",
            )
        self.stack.append(self.globals.setdefault(full, Global(full)))


# --- the opcodes: a function each, as there are millions of them in a large pickle ---------------

_BYTE, _SHORT, _INT, _UINT, _LONG, _REAL = map(struct.Struct, ("<B", "<H", "<i", "<I", "<Q", ">d"))
_Op = Callable[[_Machine], object]


def _number(form: struct.Struct) -> _Op:
    return lambda m: m.stack.append(m.number(form))


def _text(length: struct.Struct) -> _Op:
    return lambda m: m.stack.append(m.take(m.number(length)).decode("utf-8", "surrogatepass"))


def _long(m: _Machine) -> None:
    m.stack.append(int.from_bytes(m.take(m.number(_BYTE)), "little", signed=True))


def _mark(m: _Machine) -> None:
    m.below.append(m.stack)
    m.stack = []


def _tuple_of(count: int) -> _Op:
    """A tuple of the last so many."""

    def make(m: _Machine) -> None:
        stack = m.stack
        if len(stack) < count:
            raise IndexError
        stack[-count:] = [tuple(stack[-count:])]

    return make


def _marked_tuple(m: _Machine) -> None:
    values = tuple(m.to_mark())
    m.stack.append(values)


def _extend(m: _Machine, values: list[Any]) -> None:
    m.top(list).extend(values)


def _set(m: _Machine, values: list[Any]) -> None:
    target = m.top(dict)
    for key, value in zip(values[::2], values[1::2], strict=False):
        if not isinstance(key, str | int | Object):
            raise m.refusal("a key that is neither text nor number nor object")
        target[key] = value
    if len(values) % 2:
        raise IndexError


def _put(form: struct.Struct) -> _Op:
    def put(m: _Machine) -> None:
        # picklers number one by one: a number of its own choice might be one of 10**9 as well
        if m.number(form) != len(m.memo):
            raise IndexError
        m.memo.append(m.stack[-1])

    return put


def _get(form: struct.Struct) -> _Op:
    size, unpack = form.size, form.unpack_from

    def get(m: _Machine) -> None:
        (number,) = unpack(m.raw, m.position)
        m.stack.append(m.memo[number])
        m.position += size

    return get


def _global_from_stack(m: _Machine) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    if not isinstance(module, str) or not isinstance(name, str):
        raise m.refusal("a name that is not text")
    m.name(module, name)


def _call(m: _Machine) -> None:
    args, called = m.stack.pop(), m.stack.pop()
    if type(called) is not Global or type(args) is not tuple:
        raise m.refusal("something is called that is not a name, or not with arguments")
    m.stack.append(Object(called.name, args))


def _build(m: _Machine) -> None:
    state = m.stack.pop()
    m.top(Object).state = state


def _persistent(m: _Machine) -> None:
    if PERSISTENT not in m.admitted:
        raise m.refusal("it refers to something outside of it")
    m.stack.append(Object(PERSISTENT, m.stack.pop()))


def _unknown(m: _Machine) -> None:
    raise m.refusal("it does what no plain value needs")


_STOP = ord(".")
_KNOWN: Mapping[int, _Op] = {
    0x80: lambda m: m.take(1),  # PROTO
    0x95: lambda m: m.take(8),  # FRAME
    ord("N"): lambda m: m.stack.append(None),
    0x88: lambda m: m.stack.append(True),
    0x89: lambda m: m.stack.append(False),
    ord("J"): _number(_INT),
    ord("K"): _number(_BYTE),
    ord("M"): _number(_SHORT),
    0x8A: _long,
    ord("G"): _number(_REAL),
    0x8C: _text(_BYTE),
    ord("X"): _text(_UINT),
    0x8D: _text(_LONG),
    ord("("): _mark,
    ord(")"): lambda m: m.stack.append(()),
    0x85: _tuple_of(1),
    0x86: _tuple_of(2),
    0x87: _tuple_of(3),
    ord("t"): _marked_tuple,
    ord("]"): lambda m: m.stack.append([]),
    ord("a"): lambda m: _extend(m, [m.stack.pop()]),
    ord("e"): lambda m: _extend(m, m.to_mark()),
    ord("}"): lambda m: m.stack.append({}),
    ord("s"): lambda m: _set(m, [m.stack.pop(-2), m.stack.pop()]),
    ord("u"): lambda m: _set(m, m.to_mark()),
    0x94: lambda m: m.memo.append(m.stack[-1]),  # MEMOIZE
    ord("q"): _put(_BYTE),
    ord("r"): _put(_UINT),
    ord("h"): _get(_BYTE),
    ord("j"): _get(_UINT),
    ord("c"): lambda m: m.name(m.line(), m.line()),
    0x93: _global_from_stack,
    ord("R"): _call,
    0x81: _call,  # NEWOBJ
    ord("b"): _build,
    ord("Q"): _persistent,
}
"""Opcodes by their byte. No other is needed to pickle a checkpoint's metadata or a tensor."""
_OPS = [_KNOWN.get(op, _unknown) for op in range(256)]
