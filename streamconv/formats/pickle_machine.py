"""The machine that runs a pickle, which is a program: a stack, marks, and numbered values.

It takes numbers and text from the pickle, and names only if they are admitted. The opcodes that
change it are in `pickle_opcodes`.
"""

import struct
from collections.abc import Collection
from typing import Any

from streamconv.errors import BadCheckpoint, quoted
from streamconv.formats.pickle_names import WITHOUT_ARGUMENTS, is_damaged, is_harmful
from streamconv.formats.pickle_types import Global, Object


class Machine:
    """The state that the opcodes change."""

    __slots__ = (
        *("admitted", "below", "globals", "holds_foreign", "label", "memo", "position", "raw"),
        "stack",
    )

    def __init__(
        self, raw: bytes, admitted: Collection[str], label: str, holds_foreign: bool
    ) -> None:
        self.raw = raw
        self.admitted = admitted
        self.holds_foreign = holds_foreign
        self.label = label
        self.position = 0
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        """The stack below each mark. A mark is the start of a list of arguments."""
        self.memo: list[Any] = []
        """The values that the pickle refers to by number."""
        self.globals: dict[str, Global] = {}

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

    def top_is_foreign(self) -> bool:
        """Return True if the top is an object of a foreign class: its items are not needed."""
        top = self.stack[-1]
        return self.holds_foreign and type(top) is Object and top.name not in self.admitted

    def calls_otherwise(self, name: str) -> bool:
        """Return True if `name` is torch's, which calls with arguments, and makes objects without.

        So it could not read what is called without, or made with them. One class takes both.
        """
        return name.startswith("torch.") and name in self.admitted and name not in WITHOUT_ARGUMENTS

    def name(self, module: str, name: str) -> None:
        """Push a name. Raises BadCheckpoint if it is not admitted."""
        full = f"{module}.{name}"
        if full not in self.admitted and (not self.holds_foreign or is_harmful(full)):
            raise BadCheckpoint(
                f"cannot read {self.label}: it names {quoted(full)}, which no checkpoint needs",
                "do not load this file with torch: it could run code; nothing was run here",
            )
        if full not in self.globals:
            if full not in self.admitted and is_damaged(full, self.admitted):
                raise BadCheckpoint(
                    f"cannot read {self.label}: it names {quoted(full)}, which is a name of torch "
                    "with some bytes changed",
                    "restore the file from a copy, or save the checkpoint again",
                )
            self.globals[full] = Global(full)
        self.stack.append(self.globals[full])
