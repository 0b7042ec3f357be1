"""The machine that a pickle is a program for: what it takes, and what it refuses."""

import struct

import pytest

from streamconv.errors import BadCheckpoint
from streamconv.formats.pickle_machine import Machine
from streamconv.formats.pickle_types import Global


def machine(raw: bytes = b"", *, holds_foreign: bool = False) -> Machine:
    return Machine(raw, ("torch.Size",), "it", holds_foreign)


def test_bytes_numbers_and_lines_follow_each_other() -> None:
    taking = machine(b"ab" + struct.pack("<H", 500) + "é\nend".encode())
    assert (taking.take(2), taking.number(struct.Struct("<H")), taking.line()) == (b"ab", 500, "é")
    assert taking.take(3) == b"end"


def test_nothing_is_taken_beyond_the_end() -> None:
    with pytest.raises(IndexError):
        machine(b"ab").take(3)
    with pytest.raises(struct.error):
        machine(b"a").number(struct.Struct("<H"))
    with pytest.raises(IndexError):
        machine(b"no end of line").line()


def test_a_mark_keeps_what_is_below_it() -> None:
    marked = machine()
    marked.below.append([1])
    marked.stack = [2, 3]
    assert (marked.to_mark(), marked.stack, marked.below) == ([2, 3], [1], [])


def test_the_top_has_the_type_that_is_asked_for() -> None:
    full = machine()
    full.stack.append({})
    assert full.top(dict) == {}
    with pytest.raises(BadCheckpoint, match="not a list"):
        full.top(list)


def test_a_name_is_one_value() -> None:
    naming = machine()
    naming.name("torch", "Size")
    naming.name("torch", "Size")
    assert naming.stack == [Global("torch.Size")] * 2
    assert naming.stack[0] is naming.stack[1]


def test_foreign_names_are_refused_or_held() -> None:
    """Those that do harm are refused in any case."""
    with pytest.raises(BadCheckpoint, match=r"it names trainer\.State"):
        machine().name("trainer", "State")
    holding = machine(holds_foreign=True)
    holding.name("trainer", "State")
    assert holding.stack == [Global("trainer.State")]
    with pytest.raises(BadCheckpoint, match=r"it names os\.system"):
        holding.name("os", "system")
