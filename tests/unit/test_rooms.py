"""Data flows down one list: a module imports only from above it. Heavy packages come late."""

import ast
import json
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from import_graph import API, PACKAGE, graph, imported, modules

import streamconv

ORDER = (
    "errors",
    "units",
    "system",
    "formats",
    "catalog",
    "options",
    "checkpoint",
    "quantization",
    "detection",
    "planning",
    "sources",
    "sinks",
    "verification",
    "execution",
    "lazy",
    "relaying",
    "report",
    "api",
    API,
    "torch",
    "smoke",
    "cli",
    "__main__",
)
"""The modules and packages right below the package. A new one is put where its imports allow."""

NEVER = {"verification": {"planning", "execution"}}
"""Rooms that a room never imports, though the order would allow it: what verifies a conversion is
written apart from what makes it."""

HEAVY = {"torch", "transformers", "numpy", "rich", "huggingface_hub", "safetensors", "xxhash"}


# --- the order ---------------------------------------------------------------------------------


def place(module: str) -> str:
    """The entry of the list that a module belongs to."""
    return API if module == PACKAGE else module.split(".")[1]


def test_imports_are_found() -> None:
    """All ways to write one."""
    text = """
import os, streamconv.a
import streamconv.b as b
from streamconv import c, text
from .d import x
from ..e import y
from . import f
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from streamconv.g import only_a_type
else:
    from streamconv.h import z
def later():
    if True:
        from streamconv.i import z
"""
    known = [PACKAGE, *(f"streamconv.{k}" for k in "abceghi"), "streamconv.p.d", "streamconv.p.f"]
    found = imported("streamconv.p.me", ast.parse(text), known, False)
    assert found == {*known} - {"streamconv.g"}
    inside = imported("streamconv.p", ast.parse("from .d import x"), known, True)
    assert inside == {"streamconv.p.d"}


def test_every_module_is_in_the_list() -> None:
    """And the list has no other."""
    assert {place(module) for module in modules()} == set(ORDER)
    assert len(ORDER) == len(set(ORDER))


@pytest.mark.parametrize("module", modules())
def test_imports_come_from_above(module: str) -> None:
    """A module imports from entries above its own, or from its own package."""
    allowed = ORDER[: ORDER.index(place(module)) + 1]
    below = {name for name in graph()[module] if place(name) not in allowed}
    assert below == set()


def test_rooms_that_are_kept_apart() -> None:
    """No module of one imports the other."""
    for room, others in NEVER.items():
        mine = {name: names for name, names in graph().items() if place(name) == room}
        assert len(mine) > 1
        for module, names in mine.items():
            assert {name for name in names if name and place(name) in others} == set(), module


def test_no_module_is_imported_by_what_it_imports() -> None:
    """Not inside a package either; whoever imports from a package imports the package itself."""
    edges = {
        module: names | ({parent} if (parent := module.rpartition(".")[0]) != PACKAGE else set())
        for module, names in graph().items()
    }
    for module in edges:
        edges[module] -= {"", module}
    order = list(TopologicalSorter(edges).static_order())
    assert set(order) == set(modules())


def test_verification_knows_nothing_that_converts() -> None:
    """Not the planner, the executor, or the arithmetic that moves bytes; not by way of others."""
    reached = {name for name in graph() if name.startswith("streamconv.verification")}
    assert len(reached) > 4
    edge = set(reached)
    while edge:
        edge = {name for module in edge for name in graph()[module]} - reached - {"streamconv"}
        reached |= edge
    converting = {"planning", "execution", "sinks"}
    assert {name for name in reached if name.split(".")[1] in converting} == set()
    for path in (Path(streamconv.__file__).parent / "verification").glob("*.py"):
        names = {
            alias.name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and node.module == "streamconv.catalog.templates"
            for alias in node.names
        }
        assert names <= {"EXPERT", "EXPERTS", "Template"}


# --- what is loaded ----------------------------------------------------------------------------


def loaded_by(code: str, *args: str) -> set[str]:
    """The packages that a fresh interpreter holds after running `code`."""
    script = f"""
import sys
code = 0
try:
    {code}
except SystemExit as end:
    code = end.code
print("\\nloaded:", *{{name.partition(".")[0] for name in sys.modules}})
sys.exit(code)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, *args], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("loaded:")[2].split())


COMMAND = "from streamconv.cli import main; main()"
IN_PYTHON = "import streamconv as s; s.convert(sys.argv[1], sys.argv[2], to=sys.argv[4])"


def test_importing_the_package_loads_nothing_heavy() -> None:
    """The API is there at once."""
    loaded = loaded_by("import streamconv")
    assert PACKAGE in loaded
    assert loaded & {*HEAVY, "click"} == set()


def test_importing_the_package_loads_no_room() -> None:
    """Each function and class is imported when it is asked for, and what it needs when called."""
    code = "import sys, streamconv; print(*sys.modules); streamconv.merge, streamconv.Plan"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    rooms = {place(name) for name in done.stdout.split() if name.partition(".")[0] == PACKAGE}
    assert rooms == {API}


def test_modules_that_need_no_import_of_their_own() -> None:
    """As those who catch streamconv.errors.BadCheckpoint may write it."""
    code = (
        "import streamconv; print(streamconv.errors.BadCheckpoint is streamconv.BadCheckpoint, "
        "streamconv.options.Options is streamconv.Options, streamconv.api.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "streamconv.api"]


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["merge", "--help"]])
def test_help_loads_nothing_heavy(args: list[str]) -> None:
    """The command line shows itself without rich or anything that converts."""
    loaded = loaded_by(COMMAND, *args)
    assert {PACKAGE, "click"} <= loaded
    assert loaded & HEAVY == set()


def checkpoint(folder: Path) -> Path:
    """Twelve experts of one layer, of zeros."""
    folder.mkdir()
    fields = {}
    end = 0
    for expert in range(12):
        for name, shape in (("gate_proj", (3, 4)), ("up_proj", (3, 4)), ("down_proj", (4, 3))):
            fields[f"model.layers.0.mlp.experts.{expert}.{name}.weight"] = {
                "dtype": "BF16",
                "shape": shape,
                "data_offsets": (end, end + 24),
            }
            end += 24
    header = json.dumps(fields).encode()
    (folder / "model.safetensors").write_bytes(
        len(header).to_bytes(8, "little") + header + bytes(end)
    )
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3_moe", "num_experts": 12}))
    return folder


@pytest.mark.parametrize("layout", ["fused", "fused-transposed"])
@pytest.mark.parametrize("code", [f"sys.argv.insert(1, 'convert'); {COMMAND}", IN_PYTHON])
def test_a_conversion_loads_no_framework(tmp_path: Path, code: str, layout: str) -> None:
    """Bytes are moved without torch and transformers, from the command line and from Python."""
    source, target = checkpoint(tmp_path / "source"), tmp_path / "target"
    loaded = loaded_by(code, str(source), str(target), "--to", layout)
    assert loaded & {"torch", "transformers", "safetensors"} == set()
    assert (target / "model.safetensors").stat().st_size > 12 * 3 * 24


def test_arrays_of_numpy_need_no_torch(tmp_path: Path) -> None:
    """A checkpoint is opened, sliced and streamed without it."""
    code = (
        "import streamconv as s; m = s.open(sys.argv[1], 'fused-transposed', framework='np'); "
        "print(m['model.layers.0.mlp.experts.gate_up_proj'][1:3].shape, len([*m.stream()]))"
    )
    loaded = loaded_by(code, str(checkpoint(tmp_path / "source")))
    assert loaded & {"torch", "transformers", "huggingface_hub", "rich"} == set()


def test_a_plan_loads_neither_framework_nor_arrays(tmp_path: Path) -> None:
    """Nothing is rearranged for it."""
    source = str(checkpoint(tmp_path / "source"))
    loaded = loaded_by(COMMAND, "merge", source, str(tmp_path / "target"), "--dry-run", "--json")
    assert loaded & {"torch", "transformers", "safetensors", "numpy", "rich"} == set()
    assert not (tmp_path / "target").exists()
