"""Pure rooms touch no file, network, clock or environment. CONTRIBUTING.md lists them."""

import ast
import re
from pathlib import Path

import pytest
from import_graph import PACKAGE, modules

PURE = (
    "errors",
    "units",
    "formats",
    "options",
    "checkpoint",
    "quantization",
    "detection",
    "planning",
)
EXCEPT = {"streamconv.planning.limits"}
"""Asks the machine for memory and processor cores."""
WORLD = {
    *("os", "io", "pathlib", "shutil", "tempfile", "glob", "mmap", "fcntl", "subprocess"),
    *("socket", "urllib", "http", "ssl", "time", "datetime", "random", "secrets", "uuid"),
    *("threading", "queue", "concurrent", "asyncio", "multiprocessing", "platform", "logging"),
    *("huggingface_hub", "fsspec", "torch", "transformers", "safetensors", "rich", "click"),
}
ALLOWED = {
    *("os.PathLike", "io.BytesIO", "huggingface_hub.split_state_dict_into_shards_factory"),
}
"""A type, bytes in memory, and a function that only computes."""


def pure_modules() -> list[str]:
    return [name for name in modules() if name not in EXCEPT and room(name) in PURE]


def room(module: str) -> str:
    return "" if module == PACKAGE else module.split(".")[1]


def used(tree: ast.AST) -> set[str]:
    """Return what of the world a module imports or calls."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            names.update({node.func.id} & {"open", "input", "print"})
    return {
        name
        for name in names - ALLOWED
        if name.partition(".")[0] in {*WORLD, "open", "input", "print"}
        or name.startswith("streamconv.system")
    }


def test_the_world_is_found() -> None:
    text = "import os.path\nfrom os import PathLike, environ\nfrom json import loads\nopen('f')"
    assert used(ast.parse(text)) == {"os.path", "os.environ", "open"}


@pytest.mark.parametrize("module", pure_modules())
def test_a_pure_module_uses_nothing_of_the_world(module: str) -> None:
    assert used(ast.parse(modules()[module].read_text())) == set()


def test_contributing_lists_them() -> None:
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
    (line,) = re.findall(r"^The pure rooms are (.*?)\.$", text, re.MULTILINE | re.DOTALL)
    assert tuple(re.findall(r"`(\w+)`", line)) == PURE
