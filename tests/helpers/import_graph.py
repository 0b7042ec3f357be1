"""Which module of the package imports which, read from the source."""

import ast
import functools
from collections.abc import Iterable, Iterator
from pathlib import Path

import streamconv

PACKAGE = "streamconv"
ROOT = Path(streamconv.__file__).parent
API = "__init__"


def modules() -> dict[str, Path]:
    """Every module by its full name; a package goes by its own."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == API else parts)] = path
    return found


def imported(module: str, tree: ast.AST, known: Iterable[str], is_package: bool) -> set[str]:
    """The known modules that a module imports, in functions too, but not for types alone."""
    found: set[str] = set()
    for node in _running(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                above = parts[: len(parts) - node.level + is_package]
                base = ".".join([*above, base] if base else above)
            found.add(base)
            found.update(f"{base}.{alias.name}" for alias in node.names)
    return (found & set(known)) - {module}


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes except those under `if TYPE_CHECKING`."""
    yield node
    children: Iterable[ast.AST] = ast.iter_child_nodes(node)
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        children = node.orelse
    for child in children:
        yield from _running(child)


@functools.cache
def graph() -> dict[str, set[str]]:
    known = modules()
    return {
        name: imported(name, ast.parse(path.read_text()), known, path.stem == API)
        for name, path in known.items()
    }
