"""A mapping that cannot be changed, for fields of frozen values."""

from typing import Any, NoReturn, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class FrozenMap(dict[Key, Value]):
    """A dict that raises TypeError where it would be changed.

    Unlike `types.MappingProxyType` it can be pickled and copied, and so can a plan that has it.
    """

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("cannot change a FrozenMap: make a dict of it")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __repr__(self) -> str:
        return f"<FrozenMap of {len(self):,} keys>"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)
