"""The rules of words in CONTRIBUTING.md, as far as a program can check them."""

import ast
import inspect
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from import_graph import ROOT

import streamconv

VERBS = frozenset(
    re.findall(
        r"\w+",
        """
        Abort Accept Acquire Add Allocate Append Apply Ask Assign Bind Build Calculate Call Cancel
        Cast Check Clean Clear Close Collect Combine Commit Compare Complete Compute Concatenate
        Connect Convert Copy Count Create Cut Decide Decode Decrease Delete Dequantize Describe
        Detect Divide Do Drop Emit Encode End Enter Escape Estimate Exit Expect Expose Extract
        Fetch Fill Filter Find Finish Fit Flush Follow Forget Format Gather Get Give Group Guard
        Handle Hash Hold Ignore Import Include Increase Initialize Insert Inspect Interrupt
        Iterate Join Keep Leave Lend Let Limit List Load Locate Lock Log Look Make Map Mark Match
        Measure Merge Move Name Narrow Notify Number Open Order Pack Parse Pass Pin Place Plan
        Prepare Prevent Print Probe Process Prove Provide Publish Push Put Raise Read Receive
        Record Recover Reduce Refuse Register Release Remove Rename Render Repeat Replace Report
        Request Require Reserve Reset Resolve Restore Resume Retry Return Reverse Round Run Save
        Say Scan Schedule Select Send Serve Set Show Signal Skip Sleep Solve Sort Split Start Stop
        Store Stream Submit Summarize Swap Switch Take Tell Test Translate Transpose Truncate Try
        Turn Undo Unlock Unpack Update Use Validate Verify Wait Walk Warn Watch Widen Work Wrap
        Write Yield
        """,
    )
)
"""The first words of docstrings of functions. Add a new one if it is a verb."""

UNCLEAR = (
    "held against",
    "hold against",
    "gone on with",
    "go on with",
    "goes on with",
    "anew",
    "told",
    "untold",
    "stands",
    "travels along",
    "travel along",
    "one behind the other",
    "behind",
    "beside",
    "besides",
    "for who",
    "begun",
)
"""Words that a reader has to read twice. A plain word says the same."""

BLOCKS = ("Args:", "Returns:", "Raises:")
FILES = sorted(ROOT.rglob("*.py"))
TOOLS = sorted(
    path for name in ("scripts", "benchmarks") for path in (ROOT.parent / name).rglob("*.py")
)
PROSE = [
    ROOT.parent / "CHANGELOG.md",
    *sorted(path for kind in ("toml", "json") for path in ROOT.rglob(f"*.{kind}")),
]


def from_root(path: Path) -> str:
    return str(path.relative_to(ROOT.parent))


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield every comment and every string of a module, docstrings too, with its line.

    Of another file, yield every line.
    """
    if path.suffix != ".py":
        yield from enumerate(path.read_text().splitlines(), 1)
        return
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def docstrings_of_functions(path: Path) -> Iterator[tuple[str, str]]:
    """Yield line and name, and the docstring, of every function except properties."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        is_property = any("property" in ast.unparse(line) for line in node.decorator_list)
        text = ast.get_docstring(node)
        if text and not is_property:
            yield f"{node.lineno} {node.name}", text


@pytest.mark.parametrize("path", FILES, ids=from_root)
def test_docstrings_of_functions_begin_with_a_verb(path: Path) -> None:
    """A property or a class is a thing, and its docstring begins with a noun."""
    wrong = [
        f"{function}: {text.splitlines()[0]}"
        for function, text in docstrings_of_functions(path)
        if text.split()[0].strip(".,:;") not in VERBS
    ]
    assert wrong == []


@pytest.mark.parametrize("path", [*FILES, *TOOLS, *PROSE], ids=from_root)
def test_no_unclear_words(path: Path) -> None:
    """In comments, docstrings and messages; in tables and in the list of changes."""
    pattern = re.compile(rf"\b({'|'.join(UNCLEAR)})\b", re.IGNORECASE)
    wrong = {
        f"{line}: ...{text[max(found.start() - 30, 0) : found.end() + 30]!r}..."
        for line, text in texts(path)
        for found in pattern.finditer(text)
    }
    assert wrong == set()


@pytest.mark.parametrize("name", streamconv.__all__)
def test_public_names_are_documented(name: str) -> None:
    """Functions with the blocks of Google's style."""
    thing = getattr(streamconv, name)
    text = inspect.getdoc(thing) or ""
    assert text
    if inspect.isfunction(thing):
        assert [block for block in BLOCKS if f"\n{block}\n" not in text] == []


def test_no_two_classes_have_one_name() -> None:
    """A reader who has seen one of them would take the other for it. Private ones may."""
    found: dict[str, list[str]] = {}
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(from_root(path))
    assert {name: paths for name, paths in found.items() if len(paths) > 1} == {}
