"""The documents are true: blocks run, references are the package's, links lead somewhere."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import checkpoints
import click
import pytest
import torch
from document_blocks import comparable, run_blocks
from generate_docs import PAGES, ROOT, documents, references
from import_graph import API, PACKAGE, graph
from safetensors.torch import load_file, save_file
from site_files import ROOT_PAGES

import streamconv
import streamconv.torch
from streamconv.catalog.catalog import default_catalog
from streamconv.cli import VERBS
from streamconv.cli.convert import command as convert
from streamconv.errors import StreamconvError

CATALOG = default_catalog()

TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text() for path in documents()}
EVERYTHING = "\n".join(TEXTS.values())
ADDING = "docs/guides/adding-families.md"
RANKS = "docs/guides/distributed.md"
"""Its blocks are a script for several ranks."""
ARCHITECTURE = "docs/architecture.md"


def blocks(document: str, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXTS[document], re.MULTILINE | re.DOTALL)


RUN = [name for name in TEXTS if blocks(name, "console") + blocks(name, "python")]
"""The documents with blocks that are run."""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small checkpoints under the names that the documents use."""
    place = tmp_path_factory.mktemp("documents")
    source = checkpoints.qwen3_moe(place / "Qwen3-30B-A3B", layers=3)
    checkpoints.quantized(source, place / "Qwen3-30B-A3B-FP8")
    (place / "mine.toml").write_text(blocks(ADDING, "toml")[0])
    mine = place / "my-checkpoint"
    mine.mkdir()
    (mine / "config.json").write_text(
        json.dumps({"model_type": "my_moe", "text_config": {"num_experts": 3}})
    )
    bank = "model.layers.0.moe.bank"
    tensors = {
        f"{bank}.gate_up_proj": torch.randn(10, 3, 4),
        f"{bank}.down_proj": torch.randn(4, 3, 5),
    }
    save_file(tensors, mine / "model.safetensors")
    return place


@pytest.fixture
def folder(sources: Path, tmp_path: Path) -> Path:
    """A place with the checkpoints and nothing else: no document needs another one's outputs."""
    return shutil.copytree(sources, tmp_path / "place")


@pytest.mark.parametrize("document", [name for name in RUN if name not in (ADDING, RANKS)])
def test_blocks_run(document: str, folder: Path) -> None:
    """Every block runs, in order, as a new user would type them, and prints what is shown."""
    printed = run_blocks(TEXTS[document], folder)
    assert comparable(printed) == comparable(TEXTS[document]), "run `make tables`"


LAUNCH = """
import os, runpy, signal, sys
import torch, torch.distributed.checkpoint, transformers
os.environ |= {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2"}
os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
ranks = []
for rank in ("0", "1"):
    port, sent = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(240)
        os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "MASTER_PORT": os.read(port, 9).decode()}
        runpy.run_path("load.py")
        os._exit(0)
    ranks.append((pid, sent))
# after the forks, as it has threads; the system chooses the port, which stays its own
store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
for _, sent in ranks:
    os.write(sent, str(store.port).encode())
sys.exit(max(os.waitpid(pid, 0)[1] != 0 for pid, _ in ranks))
"""
"""What torchrun does for a script, but torch and transformers are imported once."""


def test_blocks_of_ranks_run(folder: Path) -> None:
    """The script that they are together, in two ranks."""
    (folder / "load.py").write_text("".join(blocks(RANKS, "python")))
    done = subprocess.run(
        [sys.executable, "-c", LAUNCH],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr


FRESH = """
import json, os, sys
failed = []
for document, imports, names in json.load(sys.stdin):
    pid = os.fork()
    if pid == 0:
        space = {}
        exec(imports, space)
        for name in names:
            eval(name, space)
        os._exit(0)
    if os.waitpid(pid, 0)[1] != 0:
        failed.append(document)
sys.exit(f"imports are missing in {failed}" if failed else 0)
"""
"""Evaluates names after the imports of each document, in an interpreter with no others."""


def test_blocks_import_what_they_use_of_the_package() -> None:
    """The process that runs them has imported it already; that of a reader has not.

    The blocks of ranks have an interpreter without it anyway.
    """
    found = []
    for name in {*TEXTS} - {RANKS}:
        nodes = [*ast.walk(ast.parse("".join(blocks(name, "python"))))]
        imports = [ast.unparse(n) for n in nodes if isinstance(n, ast.Import | ast.ImportFrom)]
        used = {ast.unparse(n) for n in nodes if isinstance(n, ast.Attribute)}
        ours = sorted(text for text in used if re.fullmatch(rf"{PACKAGE}(\.\w+)+", text))
        found.append((name, "\n".join(line for line in imports if PACKAGE in line), ours))
    assert sum(len(ours) for *_, ours in found) > 10
    done = subprocess.run(
        [sys.executable, "-c", FRESH],
        input=json.dumps([each for each in found if each[2]]),
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_there_are_blocks() -> None:
    """A change of the fences has not hidden them from the tests."""
    assert {"README.md", ADDING} < {*RUN}
    assert len("".join(blocks("README.md", "console")).splitlines()) > 4


def test_the_example_of_a_family_moves_the_bytes(folder: Path) -> None:
    """What `--family` made of the user's own layout, by a formula of its own."""
    run_blocks(TEXTS[ADDING], folder)
    source, made = (
        load_file(folder / name / "model.safetensors") for name in ("my-checkpoint", "my-merged")
    )
    moved = source["model.layers.0.moe.bank.gate_up_proj"].permute(1, 0, 2)
    assert made["model.layers.0.moe.experts.gate_up_proj"].equal(moved)
    assert made["model.layers.0.moe.experts.down_proj"].equal(
        source["model.layers.0.moe.bank.down_proj"].permute(1, 0, 2)
    )


def test_the_readme_is_short() -> None:
    assert len(TEXTS["README.md"].splitlines()) <= 150


@pytest.mark.parametrize(("path", "text"), references().items(), ids=PAGES)
def test_references_are_current(path: Path, text: str) -> None:
    """`make tables` would change nothing."""
    assert path.read_text() == text, "run `make tables`"


def test_references_have_every_name() -> None:
    """All model types and layouts, verbs, public names and kinds of JSON documents."""
    names = {
        "families": [name for f in CATALOG.families.values() for name in f.model_types],
        "layouts": CATALOG.layouts,
        "command-line": VERBS,
        "errors": [f"{error.exit_code}" for error in StreamconvError.__subclasses__()],
    }
    for page, expected in names.items():
        text = TEXTS[f"docs/reference/{page}.md"]
        assert [name for name in expected if name not in text] == [], page
    api = TEXTS["docs/reference/python.md"] + TEXTS["docs/reference/errors.md"]
    assert [name for name in streamconv.__all__ if name not in api] == []
    assert [n for n in streamconv.torch.__all__ if f"### streamconv.torch.{n}" not in api] == []
    assert re.findall(r"^\|.*\|  \|$", TEXTS["docs/reference/python.md"], re.MULTILINE) == []


def test_the_model_types_that_they_count() -> None:
    """Without those whose experts are refused."""
    count = sum(len(f.model_types) for f in CATALOG.families.values() if not f.refused)
    assert f"\n{count} model types: " in TEXTS["README.md"]


def test_the_navigation_has_every_page() -> None:
    """Each document once."""
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    pages = re.findall(r": (\S+\.md)$", navigation, re.MULTILINE)
    assert sorted(pages) == sorted(ROOT_PAGES.get(name, name[len("docs/") :]) for name in TEXTS)


def test_the_site_builds(tmp_path: Path) -> None:
    """Without a warning; links that leave docs/ lead to a page or a copy of the file."""
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "experts of a layer" in (tmp_path / "index.html").read_text()
    assert (tmp_path / "files/streamconv/catalog/data/families.toml").exists()


def test_options_are_all_named() -> None:
    """One of the documents names every option of a conversion."""
    for parameter in convert.params:
        names = [*parameter.opts, *parameter.secondary_opts]
        if isinstance(parameter, click.Option) and "--to" not in names:
            assert any(f"`{name}" in EVERYTHING for name in names), names


def tree() -> str:
    """Return the annotated tree of rooms."""
    (found,) = (text for text in blocks(ARCHITECTURE, "text") if text.startswith("streamconv/"))
    return found


def listed(indent: int) -> list[str]:
    """Return the entries of the tree at one depth, in their order."""
    return re.findall(rf"^ {{{indent}}}([^\s/]+)/?\s", tree(), re.MULTILINE)


def test_the_tree_shows_every_room() -> None:
    """It has every room and every module at the top of the package, and nothing else."""
    package = ROOT / PACKAGE
    modules = {path.name for path in package.glob("*.py")}
    assert sorted(listed(2)) == sorted(modules | folders(package))
    inside = {inner for room in folders(package) for inner in folders(package / room)}
    assert sorted(listed(4)) == sorted(inside)
    assert all((ROOT / name).is_dir() for name in listed(0))


def folders(place: Path) -> set[str]:
    """Return the names of the folders in a folder."""
    return {path.name for path in place.iterdir() if path.is_dir()} - {"__pycache__"}


def test_imports_run_down_the_tree() -> None:
    """As the page says, of each module of the package."""
    order = [name.removesuffix(".py") for name in listed(2)]

    def place(module: str) -> int:
        return order.index(API if module == PACKAGE else module.split(".")[1])

    up = {
        (module, name)
        for module, names in graph().items()
        for name in names - {"", PACKAGE}
        if place(name) < place(module)
    }
    assert len(graph()) > 50
    assert up == set()


def test_the_errors_that_they_explain_exist() -> None:
    """Each piece between the gaps of an error of ours is a text of the package."""
    ours = TEXTS["docs/troubleshooting.md"].partition("## Errors of streamconv")[2]
    shown = re.findall(r"^### `(.+)`$", ours, re.MULTILINE)
    texts = {
        node.value
        for path in (ROOT / PACKAGE).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    known = {"torch and transformers are", "cannot use src"}  # of several texts and names
    pieces = {piece.strip(": ") for text in shown for piece in re.split(r"\.\.\.|: ", text)}
    unknown = {piece for piece in pieces if not any(piece in text for text in texts)}
    assert len(shown) > 10
    assert {piece for piece in unknown if not any(name in piece for name in known)} == set()


def test_the_tests_that_they_name_exist() -> None:
    """Each fault names a test that shows how it is handled."""
    named = set(re.findall(r"`(test_\w+)`", EVERYTHING))
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > 20
    assert {test for test in named if f"def {test}(" not in tests} == set()


def test_the_files_that_they_name_exist() -> None:
    """Paths from the root of the repository, as in `scripts/fuzz.py`."""
    named = set(
        re.findall(r"`((?:benchmarks|docs|scripts|streamconv|tests)/[\w./-]*)`", EVERYTHING)
    )
    assert len(named) > 5
    assert {path for path in named if not (ROOT / path).exists()} == set()


def links(document: str) -> list[tuple[str, str]]:
    """Return file and heading of each link that stays in the repository; either may be empty."""
    return re.findall(r"\]\((?![a-z]+:)([^)#\s]*)#?([^)\s]*)\)", TEXTS[document])


def headings(text: str) -> set[str]:
    """Return the anchors of a document's headings."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", TEXTS)
def test_links_lead_somewhere(document: str) -> None:
    """Links and pictures are files of the repository, and headings of a document are there."""
    for target, heading in links(document):
        path = (ROOT / document).parent / target if target else ROOT / document
        assert path.exists(), target
        assert not heading or heading in headings(path.read_text()), heading


def test_the_readme_leads_to_every_document() -> None:
    """So that a reader can find each of them."""
    linked = {(ROOT / target).resolve() for target, _ in links("README.md")}
    own = {"README.md", "CHANGELOG.md"}
    assert {name for name in TEXTS if name not in own and (ROOT / name) not in linked} == set()
