"""The reference of the Python API, from the docstrings of what `streamconv` exports."""

import ast
import inspect
import re
import textwrap
import typing
from collections.abc import Iterator
from typing import Any

from markdown_text import escaped, lines, table

import streamconv
from streamconv.api import option_docs
from streamconv.api.run_options import RunOptions
from streamconv.errors import StreamconvError
from streamconv.options import LazyOptions, Options, Reading

TYPES = {
    Reading: (),
    LazyOptions: (Reading,),
    Options: (Reading, LazyOptions),
    RunOptions: (Reading, LazyOptions, Options),
}
"""The types of options, and those whose options each of them has, too."""
_BLOCK = re.compile(r"^(Args|Returns|Raises):\n((?:    .*\n|\n)+)", re.MULTILINE)
_ITEM = re.compile(r"^(\S.*?): ((?:.|\n(?=    |\n|$))*)", re.MULTILINE)


def page() -> str:
    """Return the page."""
    things = {name: getattr(streamconv, name) for name in streamconv.__all__}
    functions = {name: thing for name, thing in things.items() if inspect.isfunction(thing)}
    classes = {
        name: thing
        for name, thing in things.items()
        if inspect.isclass(thing) and not issubclass(thing, StreamconvError) and thing not in TYPES
    }
    return lines(
        "# Python API",
        "",
        "Everything that `import streamconv` offers. [In Python](../guides/python.md) shows how it "
        "is used. The errors are [a page of their own](errors.md).",
        "",
        "## Functions",
        "",
        *(_function(name, thing) for name, thing in functions.items()),
        *_storage_reader(),
        "## Options",
        "",
        "Keyword arguments that several functions have. Each type has those of the ones before it.",
        "",
        *(_options(kind) for kind in TYPES),
        "## Results and events",
        "",
        "`streamconv.Event`, which `on_event` is called with, is one of these: "
        + ", ".join(f"`{kind.__name__}`" for kind in typing.get_args(streamconv.Event))
        + ".",
        "",
        *(_class(name, thing) for name, thing in classes.items()),
    )


def _function(name: str, function: Any) -> Iterator[str]:
    """Yield the section of a function."""
    yield from (f"### streamconv.{name}", "", "```py", _signature(name, function), "```", "")
    summary, blocks = _docstring(function)
    yield from (*_paragraphs(summary), "")
    yield from _arguments(function, blocks["Args"])
    yield from ("Returns:", "", *_paragraphs(blocks["Returns"]), "")
    yield from _errors(blocks["Raises"])


def _arguments(function: Any, block: str) -> Iterator[str]:
    """Yield the table of a function's arguments, and links to the types of its options."""
    parameters = inspect.signature(function).parameters
    own = [(key, text) for key, text in _items(block) if key in parameters]
    yield from table(("argument", "meaning"), ((f"`{key}`", escaped(text)) for key, text in own))
    kind = option_type(function)
    if kind is not None:
        types = [*TYPES[kind], kind]
        links = ", ".join(f"[{each.__name__}](#{each.__name__.lower()})" for each in types)
        yield from (f"Further keyword arguments: those of {links}.", "")


def _errors(block: str) -> Iterator[str]:
    """Yield the table of the errors that a function raises."""
    rows = ((f"`{key}`", escaped(text)) for key, text in _items(block))
    yield from table(("raises", "if"), rows)


def _storage_reader() -> Iterator[str]:
    """Yield the section of the class that is imported by the name of its module."""
    from torch.distributed.checkpoint import StorageReader as Base

    from streamconv.lazy.storage_reader import LazyStorageReader
    from streamconv.torch import StorageReader

    name = "torch.StorageReader"
    signature = _signature(name, StorageReader.__init__).replace("(self, ", "(")
    _, blocks = _docstring(StorageReader.__init__)
    own = [row for row in members(LazyStorageReader) if not hasattr(Base, row[0].split("(")[0])]
    yield from (f"### streamconv.{name}", "", "```py", signature, "```", "")
    yield from (*_paragraphs(inspect.getdoc(StorageReader) or ""), "")
    yield from ("It is not part of `import streamconv`: write `import streamconv.torch`.", "")
    yield from _arguments(StorageReader.__init__, blocks["Args"])
    yield from _errors(blocks["Raises"])
    yield from table(("", "what it is"), ((f"`{k}`", escaped(v)) for k, v in own))


def option_type(function: Any) -> type | None:
    """Return the type of the further keyword arguments of a function, or None."""
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            kind: type = parameter.annotation.__args__[0]
            return kind
    return None


def _signature(name: str, function: Any) -> str:
    """Return a signature with an argument a line."""
    shown = []
    star = False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not star:
            shown.append("*")
            star = True
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            shown.append(f"**{parameter.name}")
        elif parameter.default is inspect.Parameter.empty:
            shown.append(parameter.name)
        else:
            shown.append(f"{parameter.name}={parameter.default!r}")
    return f"{name}({', '.join(shown)})"


def _options(kind: type) -> Iterator[str]:
    """Yield the options that a type adds to the types before it."""
    yield from (f"### {kind.__name__}", "", *_paragraphs(inspect.getdoc(kind) or ""), "")
    inherited = {name for each in TYPES[kind] for name in each.__annotations__}
    rows = ((f"`{k}`", escaped(v)) for k, v in option_docs.meanings(kind) if k not in inherited)
    yield from table(("option", "meaning"), rows)


def _class(name: str, kind: Any) -> Iterator[str]:
    """Yield the section of a class: its fields, properties and methods that have a docstring."""
    yield from (f"### streamconv.{name}", "", *_paragraphs(inspect.getdoc(kind) or ""), "")
    rows = list(members(kind))
    if rows:
        yield from table(("", "what it is"), ((f"`{k}`", escaped(v)) for k, v in rows))


def members(kind: type) -> Iterator[tuple[str, str]]:
    """Yield the public fields, properties and methods of a class, each with its docstring."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(tree, ast.ClassDef)
    for node, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            said = after.value.value if _is_text(after) else ""  # type: ignore[union-attr]
            if not node.target.id.startswith("_"):
                yield node.target.id, " ".join(f"{said}".split())
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            said = (ast.get_docstring(node) or "").partition("\n\n")[0]
            decorated = {ast.unparse(each) for each in node.decorator_list}
            is_method = not decorated & {"property", "cached_property", "functools.cached_property"}
            arguments = [arg.arg for arg in node.args.args[1:]] if is_method else []
            name = f"{node.name}({', '.join(arguments)})" if is_method else node.name
            yield name, " ".join(said.split())


def _is_text(node: ast.stmt | None) -> bool:
    """Return True if a statement is a docstring."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _docstring(function: Any) -> tuple[str, dict[str, str]]:
    """Return what comes before the blocks of a docstring, and each block by its name."""
    text = (inspect.getdoc(function) or "") + "\n"
    found = {match[1]: textwrap.dedent(match[2]).strip() for match in _BLOCK.finditer(text)}
    return text[: text.index("Args:\n")].strip(), {"Args": "", "Raises": "", **found}


def _items(block: str) -> list[tuple[str, str]]:
    """Return name and meaning of each item of a block."""
    return [(match[1], " ".join(match[2].split())) for match in _ITEM.finditer(block)]


def _paragraphs(text: str) -> list[str]:
    """Return the paragraphs of a docstring, with an empty line between two."""
    paragraphs = [escaped(" ".join(part.split())) for part in text.strip().split("\n\n")]
    return "\n\n".join(paragraphs).split("\n")
