"""The opcodes do what those of Python do, and no others are understood."""

import pickle
import pickletools
from typing import Any

import pytest

from streamconv.errors import BadCheckpoint
from streamconv.formats.pickle_opcodes import OPCODES
from streamconv.formats.pickle_reader import read_pickle

FOREIGN = {
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("EMPTY_SET", "ADDITEMS", "FROZENSET", "NEWOBJ_EX"),
}
"""Opcodes of values that are only held."""
REFUSED = {
    *("INT", "LONG", "LONG4", "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "FLOAT"),
    *("NEXT_BUFFER", "READONLY_BUFFER", "LIST", "DICT", "POP", "DUP", "POP_MARK", "GET", "PUT"),
    *("EXT1", "EXT2", "EXT4", "INST", "OBJ", "PERSID"),
}
"""Opcodes of old protocols, of registries, and those that pickle.dump does not write."""


@pytest.mark.parametrize("holds_foreign", [False, True])
def test_which_are_understood(holds_foreign: bool) -> None:
    """Any other is refused for that reason, where it is."""
    refused = set()
    for op in pickletools.opcodes:
        raw = b"\x80\x02" + op.code.encode("latin-1") + bytes(16) + b"."
        try:
            read_pickle(raw, (), "it", holds_foreign=holds_foreign)
        except BadCheckpoint as error:
            if error.message.endswith("it has an opcode that no plain value needs (byte 3)"):
                refused.add(op.name)
    assert refused == (REFUSED if holds_foreign else REFUSED | FOREIGN)
    assert len(OPCODES) == 256


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x02N.",
        b"\x88.",
        b"\x89.",
        b"J\xfe\xff\xff\xff.",
        b"K\xff.",
        b"M\xff\xfe.",
        b"\x8a\x02\x00\xff.",
        b"\x8a\x00.",
        b"G\xbf\xf0\x00\x00\x00\x00\x00\x00.",
        b"\x8c\x02\xc3\xa9.",
        b"X\x01\x00\x00\x00x.",
        b"\x8d\x01\x00\x00\x00\x00\x00\x00\x00x.",
        b"(K\x01K\x02t.",
        b"(t.",
        b"K\x01K\x02K\x03K\x04\x87\x85\x86.",
        b"](K\x01K\x02eK\x03a.",
        b"}(K\x01Nu\x8c\x01xK\x02s.",
        b"\x8c\x01x\x94h\x00\x86.",
        b"\x8c\x01xq\x00j\x00\x00\x00\x00\x86.",
        b"\x80\x04\x95\x02\x00\x00\x00\x00\x00\x00\x00N.",
    ],
)
def test_a_program_makes_the_value_that_it_makes_in_python(program: bytes) -> None:
    value = pickle.loads(program)
    found: Any = read_pickle(program, (), "it")
    assert (repr(found), type(found)) == (repr(value), type(value))


@pytest.mark.parametrize(
    "program",
    [
        *(b".", b"", b"K.", b"\x86.", b"K\x01\x86.", b"h\x00.", b"q\x00.", b"t.", b"e.", b"X\xff."),
        *(b"}(K\x01u.", b"K\x01r\xff\xff\xff\x7f.", b"\x80\x06N.", b"N(."),
        *(b"\x8c\x01\xff.", b"NNa.", b"NNNs."),
    ],
)
def test_a_program_that_lacks_something(program: bytes) -> None:
    """Is refused, though Python accepts a few of them."""
    with pytest.raises(BadCheckpoint, match=r"^cannot read it: "):
        read_pickle(program, (), "it")
