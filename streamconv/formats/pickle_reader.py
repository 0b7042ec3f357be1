"""Pickles read as data: nothing is imported, called or run.

A pickle is a program for a machine with a stack, which makes its reader call whatever it names:

    c os\\n system\\n         push the name os.system        here: push Global("os.system")
    X 2 0 0 0 ls             push the text "ls"
    \\x85                      put the top into a tuple
    R                        call the name with the tuple   here: push Object("os.system", ("ls",))
    .                        stop: the value is on top of the stack

The caller admits the names that it expects. Any other is refused, or held as data if the caller
holds foreign names (`pickle_names`). Only what `pickle.dump` writes is understood. Keys of
dictionaries are text, numbers or objects; another one is held in an object of its own. Nothing is
hashed, compared or walked in depth, so that time and memory stay linear in the pickle's length.
"""

import struct
from collections.abc import Collection
from typing import Any

from streamconv.formats.pickle_machine import Machine
from streamconv.formats.pickle_opcodes import OPCODES, STOP


def read_pickle(
    raw: bytes, admitted: Collection[str], label: str, *, holds_foreign: bool = False
) -> Any:
    """Return the value in a pickle, with `Global` and `Object` for what it names and calls.

    Args:
        raw: The bytes of the pickle.
        admitted: Every name that it may contain, such as `torch.Size`.
        label: Names the pickle in errors.
        holds_foreign: True to hold names that are not admitted as data, unless they are known to
            do harm if a pickle is run.

    Raises:
        BadCheckpoint: It contains another name, or no plain value.
    """
    machine = Machine(raw, admitted, label, holds_foreign)
    try:
        return _run(machine)
    except (IndexError, struct.error):
        raise machine.refusal("it ends too early, or takes a value that is not there") from None
    except UnicodeDecodeError:
        raise machine.refusal("text that is not UTF-8") from None


def _run(machine: Machine) -> Any:
    """Run all opcodes and return the value."""
    raw, opcodes = machine.raw, OPCODES
    while (op := raw[machine.position]) != STOP:
        machine.position += 1
        opcodes[op](machine)
    return machine.stack.pop()
