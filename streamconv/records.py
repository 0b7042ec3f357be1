"""Frozen dataclasses that are made in a quarter of the time.

Python compiles six methods for each frozen dataclass, which takes 0.7 ms. The command line makes a
hundred of these classes when it starts: a sixth of the time of a small plan. Here `__init__` is
compiled, and the other methods are functions that all classes share.

    @dataclass(frozen=True, slots=True)
    class Span:
        begin: int
        end: int

Type checkers see the decorator of the standard library, and its `fields` and `replace` work.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import MISSING, Field, FrozenInstanceError, fields
from operator import attrgetter
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any, Literal, TypeVar

__all__ = ["dataclass"]

Record = TypeVar("Record")


class _Factory:
    """The default of a field with a `default_factory`, in the signature of `__init__`."""

    def __repr__(self) -> str:
        return "<factory>"


_FACTORY = _Factory()

if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(
        *, frozen: Literal[True], slots: bool = False, eq: bool = True
    ) -> Callable[[type[Record]], type[Record]]:
        """Make a class a frozen dataclass, as `dataclasses.dataclass` does.

        Args:
            frozen: Always True; written out for readers.
            slots: True to store fields in slots.
            eq: True to compare by fields; False if an instance is equal only to itself.
        """
        return lambda cls: _made(cls, slots=slots, eq=eq)


def _made(cls: type[Any], *, slots: bool, eq: bool) -> type[Any]:
    """Return a class with the methods of a frozen dataclass that it does not define itself."""
    own = vars(cls)
    made = dataclasses.dataclass(init=False, repr=False, eq=False, slots=slots)(cls)
    methods = {"__setattr__": _refuse_change, "__delattr__": _refuse_change, "__repr__": _repr}
    if slots:
        methods |= {"__getstate__": _state, "__setstate__": _set_state}
    if eq:
        methods |= _comparison([field.name for field in fields(made) if field.compare])
    for name, method in methods.items():
        if name not in own:
            setattr(made, name, method)
    made.__init__ = _init(fields(made))
    return made


def _init(own: tuple[Field[Any], ...]) -> Callable[..., None]:
    """Build the `__init__` of a class with these fields."""
    names: dict[str, Any] = {"_set": object.__setattr__, "_FACTORY": _FACTORY}
    parameters, lines = ["self"], ["pass"]
    for field in own:
        name, default = field.name, f"_default_{field.name}"
        value = name
        if field.default_factory is not MISSING:
            names[default] = field.default_factory
            value = f"{default}()"
            if field.init:
                parameters.append(f"{name}=_FACTORY")
                value = f"{default}() if {name} is _FACTORY else {name}"
        else:
            names[default] = field.default
            parameters.append(name if field.default is MISSING else f"{name}={default}")
        lines.append(f"_set(self, {name!r}, {value})")
    exec(f"def __init__({', '.join(parameters)}):\n  " + "\n  ".join(lines), names)  # noqa: S102
    init: Callable[..., None] = names["__init__"]
    init.__annotations__ = {field.name: field.type for field in own if field.init}
    init.__annotations__["return"] = None
    return init


def _comparison(names: list[str]) -> dict[str, Callable[..., Any]]:
    """Return the methods that compare instances by the fields with these names."""
    key: Callable[[Any], Any] = attrgetter(*names) if names else lambda _: ()

    def is_equal(self: object, other: object) -> Any:
        return key(self) == key(other) if other.__class__ is self.__class__ else NotImplemented

    def hashed(self: object) -> int:
        return hash(key(self))

    return {"__eq__": is_equal, "__hash__": hashed}


def _refuse_change(self: object, name: str, value: object = None) -> None:
    raise FrozenInstanceError(f"cannot change {name!r} of a {type(self).__name__}")


@recursive_repr()
def _repr(self: Any) -> str:
    shown = (f"{field.name}={getattr(self, field.name)!r}" for field in fields(self) if field.repr)
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _state(self: Any) -> list[Any]:
    """Return what `pickle` and `copy` take over: the values of all fields."""
    return [getattr(self, field.name) for field in fields(self)]


def _set_state(self: Any, state: list[Any]) -> None:
    for field, value in zip(fields(self), state, strict=True):
        object.__setattr__(self, field.name, value)
