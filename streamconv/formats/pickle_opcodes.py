"""The opcodes of a pickle: one function each, because a large pickle has millions of them.

Each changes a `Machine`. If the pickle ends too early, or lacks a value that the opcode takes, it
raises IndexError or struct.error, and the machine's refusal if no plain value needs the opcode.
Source: `pickletools` of Python's library.
"""

import struct
from collections.abc import Callable, Mapping
from typing import Any

from streamconv.formats.pickle_machine import Machine
from streamconv.formats.pickle_names import DICTIONARIES
from streamconv.formats.pickle_types import KEY, PERSISTENT, Global, Object

MAX_PROTOCOL = 5
"""The newest pickle protocol. Python refuses one that it does not know."""
MAX_KEY_BITS = 64
"""Bits of a number that is a key of a dictionary."""

_BYTE, _SHORT, _INT, _UINT, _LONG, _REAL = map(struct.Struct, ("<B", "<H", "<i", "<I", "<Q", ">d"))
_Op = Callable[[Machine], object]


def _number(form: struct.Struct) -> _Op:
    return lambda m: m.stack.append(m.number(form))


def _text(length: struct.Struct) -> _Op:
    return lambda m: m.stack.append(m.take(m.number(length)).decode("utf-8", "surrogatepass"))


def _protocol(m: Machine) -> None:
    if m.number(_BYTE) > MAX_PROTOCOL:
        raise m.refusal("a protocol that is not known")


def _frame(m: Machine) -> None:
    """Pass over the length of a frame. It is only for those who read in parts."""
    if m.number(_LONG) > len(m.raw) - m.position:
        raise IndexError


def _long(m: Machine) -> None:
    m.stack.append(int.from_bytes(m.take(m.number(_BYTE)), "little", signed=True))


def _mark(m: Machine) -> None:
    m.below.append(m.stack)
    m.stack = []


def _tuple_of(count: int) -> _Op:
    """Return the opcode that makes a tuple of the last `count` values."""

    def make(m: Machine) -> None:
        stack = m.stack
        if len(stack) < count:
            raise IndexError
        stack[-count:] = [tuple(stack[-count:])]

    return make


def _marked_tuple(m: Machine) -> None:
    values = tuple(m.to_mark())
    m.stack.append(values)


def _extend(m: Machine, values: list[Any]) -> None:
    if not m.top_is_foreign():
        m.top(list).extend(values)


def _set(m: Machine, values: list[Any]) -> None:
    if m.top_is_foreign():
        return
    target = m.top(dict)
    expected = len(target) + len(values) // 2
    for key, value in zip(values[::2], values[1::2], strict=False):
        if not isinstance(key, str | int | Object):
            if not m.holds_foreign:
                raise m.refusal("a key that is neither text nor number nor object")
            target[Object(KEY, (key,))] = value
            continue
        # longer numbers can be chosen to have one hash, which makes a dictionary slow
        if isinstance(key, int) and key.bit_length() > MAX_KEY_BITS:
            raise m.refusal("a key that is a very large number")
        target[key] = value
    if len(values) % 2:
        raise IndexError
    if len(target) != expected:
        raise m.refusal("a dictionary that has a key twice")


def _put(form: struct.Struct) -> _Op:
    def put(m: Machine) -> None:
        # picklers number the values 0, 1, 2 ...; any other number could ask for a memo of 10**9
        if m.number(form) != len(m.memo):
            raise IndexError
        m.memo.append(m.stack[-1])

    return put


def _get(form: struct.Struct) -> _Op:
    size, unpack = form.size, form.unpack_from

    def get(m: Machine) -> None:
        (number,) = unpack(m.raw, m.position)
        m.stack.append(m.memo[number])
        m.position += size

    return get


def _global_from_stack(m: Machine) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    if not isinstance(module, str) or not isinstance(name, str):
        raise m.refusal("a name that is not text")
    m.name(module, name)


def _call(m: Machine, *, is_new: bool = False) -> None:
    """Call a name with arguments. `is_new` if it is the class of a new object."""
    args, called = m.stack.pop(), m.stack.pop()
    if type(called) is not Global or type(args) is not tuple:
        raise m.refusal("something is called that is not a name, or not with arguments")
    if m.holds_foreign and is_new == bool(args) and m.calls_otherwise(called.name):
        raise m.refusal("something of torch is made in another way than torch makes it")
    is_dictionary = m.holds_foreign and called.name in DICTIONARIES
    m.stack.append({} if is_dictionary else Object(called.name, args))


def _new(m: Machine) -> None:
    _call(m, is_new=True)


def _call_with_names(m: Machine) -> None:
    named = m.stack.pop()
    m.stack[-1] = (*m.stack[-1], named) if type(m.stack[-1]) is tuple else None
    _new(m)


def _build(m: Machine) -> None:
    state = m.stack.pop()
    if m.holds_foreign and type(m.stack[-1]) in (dict, list):
        return
    m.top(Object).state = state


def _bytes(length: struct.Struct) -> _Op:
    return lambda m: m.stack.append(m.take(m.number(length)))


def _only_foreign(op: _Op) -> _Op:
    """Return an opcode that is refused unless foreign values are held: no others need it."""

    def run(m: Machine) -> None:
        if not m.holds_foreign:
            _unknown(m)
        op(m)

    return run


def _persistent(m: Machine) -> None:
    if PERSISTENT not in m.admitted:
        raise m.refusal("it refers to something outside of it")
    m.stack.append(Object(PERSISTENT, m.stack.pop()))


def _unknown(m: Machine) -> None:
    raise m.refusal("it has an opcode that no plain value needs")


STOP = ord(".")
"""The opcode that ends a pickle."""
_KNOWN: Mapping[int, _Op] = {
    0x80: _protocol,  # PROTO
    0x95: _frame,
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
    0x81: _new,  # NEWOBJ
    ord("b"): _build,  # BUILD
    ord("Q"): _persistent,  # BINPERSID
    ord("C"): _only_foreign(_bytes(_BYTE)),  # SHORT_BINBYTES
    ord("B"): _only_foreign(_bytes(_UINT)),  # BINBYTES
    0x8E: _only_foreign(_bytes(_LONG)),  # BINBYTES8
    0x96: _only_foreign(_bytes(_LONG)),  # BYTEARRAY8
    0x8F: _only_foreign(lambda m: m.stack.append([])),  # EMPTY_SET
    0x90: _only_foreign(lambda m: _extend(m, m.to_mark())),  # ADDITEMS
    0x91: _only_foreign(_marked_tuple),  # FROZENSET
    0x92: _only_foreign(_call_with_names),  # NEWOBJ_EX
}
"""The opcodes that are understood. A checkpoint's metadata or a tensor needs no other."""
OPCODES = [_KNOWN.get(op, _unknown) for op in range(256)]
"""What to do with a machine for each opcode. Those that are not understood are refused."""
