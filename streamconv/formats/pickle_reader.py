"""Pickles read as data: nothing is imported, called or run.

A pickle is a program for a machine with a stack, which makes its reader call whatever it names:

    c os\\n system\\n         push the name os.system        here: push Global("os.system")
    X 2 0 0 0 ls             push the text "ls"
    \\x85                      put the top into a tuple
    R                        call the name with the tuple   here: push Object("os.system", ("ls",))
    .                        stop: the value is on top of the stack

The caller admits the names that it expects; any other is refused. Only what `pickle.dump` writes
for plain values is understood, and keys of dictionaries are text, numbers or objects. Nothing is
hashed, compared or walked in depth, so that time and memory stay linear in the pickle's length.
Source of the opcodes: `pickletools` of Python's library.
"""

import struct
from collections.abc import Callable, Collection, Mapping
from typing import Any

from streamconv.errors import BadCheckpoint, quoted
from streamconv.formats.pickle_types import PERSISTENT, Global, Object

MAX_KEY_BITS = 64
"""Bits of a number that is a key of a dictionary."""


def read_pickle(raw: bytes, admitted: Collection[str], label: str) -> Any:
    """Return the value in a pickle, with `Global` and `Object` for what it names and calls.

    Args:
        raw: The bytes of the pickle.
        admitted: Every name that it may contain, such as `torch.Size`.
        label: Names the pickle in errors.

    Raises:
        BadCheckpoint: It contains another name, or no plain value.
    """
    machine = _Machine(raw, admitted, label)
    try:
        return machine.run()
    except (IndexError, struct.error):
        raise machine.refusal("it ends too early, or takes a value that is not there") from None
    except UnicodeDecodeError:
        raise machine.refusal("text that is not UTF-8") from None


class _Machine:
    """The state that the opcodes change."""

    __slots__ = ("admitted", "below", "globals", "label", "memo", "position", "raw", "stack")

    def __init__(self, raw: bytes, admitted: Collection[str], label: str) -> None:
        self.raw = raw
        self.admitted = admitted
        self.label = label
        self.position = 0
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        """The stack below each mark. A mark is the start of a list of arguments."""
        self.memo: list[Any] = []
        """The values that the pickle refers to by number."""
        self.globals: dict[str, Global] = {}

    def run(self) -> Any:
        """Run all opcodes and return the value."""
        raw, ops = self.raw, _OPS
        while (op := raw[self.position]) != _STOP:
            self.position += 1
            ops[op](self)
        return self.stack.pop()

    def refusal(self, fact: str) -> BadCheckpoint:
        """Build the error for a pickle that is not as it should be."""
        return BadCheckpoint(
            f"cannot read {self.label}: not a pickle of a checkpoint: {fact} "
            f"(byte {self.position})",
            "check where the file comes from; nothing in it has been run",
        )

    def take(self, nbytes: int) -> bytes:
        """Read the next bytes of the pickle."""
        begin = self.position
        taken = self.raw[begin : begin + nbytes]
        if len(taken) < nbytes:
            raise IndexError
        self.position = begin + nbytes
        return taken

    def number(self, form: struct.Struct) -> Any:
        """Read the next number of the pickle."""
        (number,) = form.unpack_from(self.raw, self.position)
        self.position += form.size
        return number

    def line(self) -> str:
        """Read the text up to the end of the line."""
        end = self.raw.find(b"\n", self.position)
        if end < 0:
            raise IndexError
        text = self.take(end - self.position).decode("utf-8")
        self.position += 1
        return text

    def to_mark(self) -> list[Any]:
        """Take the values above the last mark from the stack, and the mark."""
        above, self.stack = self.stack, self.below.pop()
        return above

    def top(self, kind: Any) -> Any:
        """Return the value on top of the stack. Raises BadCheckpoint if it is of another type."""
        if type(self.stack[-1]) is not kind:
            raise self.refusal(f"a value is put into something that is not a {kind.__name__}")
        return self.stack[-1]

    def name(self, module: str, name: str) -> None:
        """Push a name. Raises BadCheckpoint if it is not admitted."""
        full = f"{module}.{name}"
        if full not in self.admitted:
            raise BadCheckpoint(
                f"cannot read {self.label}: it names {quoted(full)}, which no checkpoint needs",
                "do not load this file with torch: it could run code; nothing was run here",
            )
        self.stack.append(self.globals.setdefault(full, Global(full)))


# --- the opcodes: one function each, because a large pickle has millions of them ----------------

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
    """Return the opcode that makes a tuple of the last `count` values."""

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
        # any number of longer ones have the same hash
        if isinstance(key, int) and key.bit_length() > MAX_KEY_BITS:
            raise m.refusal("a key that is a very large number")
        target[key] = value
    if len(values) % 2:
        raise IndexError


def _put(form: struct.Struct) -> _Op:
    def put(m: _Machine) -> None:
        # picklers number the values 0, 1, 2 ...; any other number could ask for a memo of 10**9
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
    raise m.refusal("it has an opcode that no plain value needs")


_STOP = ord(".")
_KNOWN: Mapping[int, _Op] = {
    0x80: lambda m: m.take(1),  # PROTO
    0x95: lambda m: m.take(8),  # FRAME
    ord("N"): lambda m: m.stack.append(None),  # NONE
    0x88: lambda m: m.stack.append(True),  # NEWTRUE
    0x89: lambda m: m.stack.append(False),  # NEWFALSE
    ord("J"): _number(_INT),  # BININT
    ord("K"): _number(_BYTE),  # BININT1
    ord("M"): _number(_SHORT),  # BININT2
    0x8A: _long,  # LONG1
    ord("G"): _number(_REAL),  # BINFLOAT
    0x8C: _text(_BYTE),  # SHORT_BINUNICODE
    ord("X"): _text(_UINT),  # BINUNICODE
    0x8D: _text(_LONG),  # BINUNICODE8
    ord("("): _mark,  # MARK
    ord(")"): lambda m: m.stack.append(()),  # EMPTY_TUPLE
    0x85: _tuple_of(1),  # TUPLE1
    0x86: _tuple_of(2),  # TUPLE2
    0x87: _tuple_of(3),  # TUPLE3
    ord("t"): _marked_tuple,  # TUPLE
    ord("]"): lambda m: m.stack.append([]),  # EMPTY_LIST
    ord("a"): lambda m: _extend(m, [m.stack.pop()]),  # APPEND
    ord("e"): lambda m: _extend(m, m.to_mark()),  # APPENDS
    ord("}"): lambda m: m.stack.append({}),  # EMPTY_DICT
    ord("s"): lambda m: _set(m, [m.stack.pop(-2), m.stack.pop()]),  # SETITEM
    ord("u"): lambda m: _set(m, m.to_mark()),  # SETITEMS
    0x94: lambda m: m.memo.append(m.stack[-1]),  # MEMOIZE
    ord("q"): _put(_BYTE),  # BINPUT
    ord("r"): _put(_UINT),  # LONG_BINPUT
    ord("h"): _get(_BYTE),  # BINGET
    ord("j"): _get(_UINT),  # LONG_BINGET
    ord("c"): lambda m: m.name(m.line(), m.line()),  # GLOBAL
    0x93: _global_from_stack,  # STACK_GLOBAL
    ord("R"): _call,  # REDUCE
    0x81: _call,  # NEWOBJ
    ord("b"): _build,  # BUILD
    ord("Q"): _persistent,  # BINPERSID
}
"""The opcodes that are understood. A checkpoint's metadata or a tensor needs no other."""
_OPS = [_KNOWN.get(op, _unknown) for op in range(256)]
