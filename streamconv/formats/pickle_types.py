"""What a pickle is made of where nothing in it is run. Pure."""

from dataclasses import dataclass
from typing import Any

PERSISTENT = "persistent id"
"""Stands for the name of what a pickle refers to from outside of it."""


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
