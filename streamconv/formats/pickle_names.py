"""The names that a foreign pickle, such as the checkpoint of a trainer, may contain.

Such a pickle has arguments, schedules and random states next to its tensors, of classes that are
not known here. They are held as data. Names of functions that do harm if a pickle is run are
refused nevertheless, so that users are warned before they run it elsewhere.
"""

from collections.abc import Iterable
from operator import ne

HARMFUL_MODULES = frozenset(
    {
        *("os", "posix", "nt", "sys", "subprocess", "shutil", "pty", "socket", "ctypes", "signal"),
        *("importlib", "runpy", "code", "codeop", "pickle", "_pickle", "webbrowser", "pip"),
        *("multiprocessing", "threading", "asyncio", "urllib", "http", "requests", "operator"),
        *("_operator", "types", "inspect", "tempfile", "io", "_io", "marshal", "timeit"),
    }
)
"""Modules whose functions no value of a checkpoint needs, and that a program can be made of."""
HARMFUL_NAMES = frozenset({"torch.load", "torch.serialization.load", "torch.hub.load"})
PLAIN_BUILTINS = frozenset(
    f"{module}.{name}"
    for module in ("builtins", "__builtin__")
    for name in (
        *("object", "set", "frozenset", "bytearray", "bytes", "complex", "dict", "list", "tuple"),
        *("int", "long", "float", "str", "unicode", "bool", "slice", "range", "xrange"),
    )
)
"""The builtin names that values are made of. Others are functions."""
DICTIONARIES = frozenset({"collections.OrderedDict", "collections.defaultdict"})
"""Classes whose instances are dictionaries: they are read as these."""
WITHOUT_ARGUMENTS = frozenset({"torch.distributed.checkpoint.metadata.BytesStorageMetadata"})
"""Classes of torch that are also called without arguments."""


MOST_CHANGED = 4
"""Bytes of a name that may be damaged together."""


def is_harmful(name: str) -> bool:
    """Return True if a pickle that is run could do harm by calling `name`."""
    top = name.partition(".")[0]
    if top in ("builtins", "__builtin__"):
        return name not in PLAIN_BUILTINS
    return top in HARMFUL_MODULES or name in HARMFUL_NAMES


def is_damaged(name: str, admitted: Iterable[str]) -> bool:
    """Return True if a name is an admitted one with a few bytes changed.

    Whoever imports it finds nothing. Dtypes are left out, as some differ in one digit.
    """
    raw = name.encode("utf-8", "surrogatepass")
    return any(
        len(known) == len(raw)
        and (known.count(".") > 1 or not known.islower())
        and sum(map(ne, known.encode(), raw)) <= MOST_CHANGED
        for known in admitted
    )
