"""Names and calls in a pickle, as data: nothing that a pickle names is imported or run."""

from dataclasses import dataclass
from typing import Any

PERSISTENT = "persistent id"
"""The name of an Object that is outside of the pickle; its `args` are the reference to it."""

KEY = "key"
"""The name of an Object in place of a dictionary's key, which is in its `args`."""


@dataclass(frozen=True, slots=True)
class Global:
    """A module's attribute that a pickle names, such as `torch.bfloat16`."""

    name: str


@dataclass(eq=False, slots=True)
class Object:
    """The result of a call that a pickle asks for: `name(*args)`, and then its state is set."""

    name: str
    args: Any
    state: Any = None
    """The fields of an instance, or None if none were set."""
