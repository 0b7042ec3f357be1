"""Every file of the corpus is refused in one line, or read; fast, in little memory, and as said.

The verdict of safetensors' own parser is compared with ours, here and on headers that hypothesis
makes: a difference that the corpus does not explain is a failure.
"""

import json
import subprocess
import sys
import time
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import pytest
from corpus import CORPUS, Case
from folders import framed, tree
from headers import FILE, JSON, NAMES, cases, theirs
from hypothesis import given, settings
from hypothesis import strategies as st

from streamconv.errors import BadCheckpoint
from streamconv.formats.safetensors import MAX_HEADER_BYTES
from streamconv.sources.base import Read
from streamconv.sources.safetensors_folder import open_folder
from streamconv.sources.shard_index import read_index, shard_names

SECONDS = 20.0
"""Far above the time that any file takes on a slow machine, far below that of quadratic work."""

MEMORY = 200_000_000


def test_the_corpus_has_no_number_twice() -> None:
    """And as many malformed files as the table of faults says."""
    assert len({case.number for case in CORPUS}) == len(CORPUS)
    faults = (Path(__file__).parents[2] / "docs" / "failures.md").read_text()
    assert f"one of {sum(not case.legal for case in CORPUS)} malformed files" in faults


@cases()
def test_a_file_of_the_corpus(case: Case, tmp_path: Path) -> None:
    """Refused with file and fact, in one printable line, or read as it is."""
    (tmp_path / FILE).write_bytes(case.raw)
    before = tree(tmp_path)
    begin = time.process_time()
    try:
        source = open_folder(str(tmp_path))
    except BadCheckpoint as error:
        said = f"{error.message}\n{error.hint}"
        assert not case.legal, said
        assert [word for word in case.says if word not in said] == [], said
        assert FILE in error.message
        assert error.message.isprintable()
        assert len(error.message) < 500
    else:
        assert case.legal
        reference = theirs(case.raw) or {}
        for name, info in source.checkpoint.tensors.items():
            data = bytearray(info.nbytes)
            source.read([Read(info, 0, memoryview(data))])
            assert not reference or data == bytes(reference[name]["data"])
        source.close()
    assert time.process_time() - begin < SECONDS
    assert tree(tmp_path) == before


def test_the_whole_corpus_in_little_memory(tmp_path: Path) -> None:
    """By a process of its own, which says what each file cost and what it held at most."""
    for case in CORPUS:
        (tmp_path / case.number).mkdir()
        (tmp_path / case.number / FILE).write_bytes(case.raw)
    script = """
import json, sys, time
import streamconv
from streamconv.system.resources import peak_bytes
for number in sys.argv[2:]:
    begin, fact = time.process_time(), ""
    try:
        streamconv.inspect(f"{sys.argv[1]}/{number}")
    except streamconv.BadCheckpoint as error:
        fact = error.message
    print(json.dumps([number, time.process_time() - begin, fact, peak_bytes()]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), *(case.number for case in CORPUS)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    rows = {row[0]: row[1:] for row in map(json.loads, done.stdout.splitlines())}
    assert {number for number, row in rows.items() if row[0] > SECONDS} == set()
    assert {case.number for case in CORPUS if not case.legal} == {
        n for n, r in rows.items() if r[1]
    }
    assert max(row[2] for row in rows.values()) < MEMORY


LARGEST = {
    "lists for an entry": ('{"t": [', "[],", "tensor t"),
    "sizes without end": ('{"t": {"dtype": "U8", "shape": [', "1,", "tensor t"),
    "objects in an entry": ('{"t": {"a": ', '{"a": {}},', "tensor t"),
    "a brace in a text": ('{"t": {"a": "}", "b": [', "[],", "tensor t"),
    "lists in the metadata": ('{"__metadata__": {"a": [', "[],", "__metadata__"),
    "a name without end": ('{"', "a", "not JSON"),
    "space": ("{", " ", "not JSON"),
    "depth": ('{"t": ', "[", "nested"),
}
"""How a header begins, what fills it up to its size, and the fact in the error."""
WHOLE = ("lists for an entry", "sizes without end", "depth")
"""Those that are as large as the format allows; of the others, two fifths would be too much."""


@pytest.mark.parametrize("kind", LARGEST)
def test_a_header_of_a_hundred_megabytes(kind: str, memory: Path) -> None:
    """It is not parsed: it takes its bytes, once more as text, and the time to read them."""
    begin, more, says = LARGEST[kind]
    size = MAX_HEADER_BYTES if kind in WHOLE else MAX_HEADER_BYTES * 2 // 5
    text = begin + more * ((size - len(begin)) // len(more))
    (memory / FILE).write_bytes(framed(text.ljust(size).encode()))
    script = """
import json, sys, time
import streamconv
from streamconv.system.resources import peak_bytes
begin = time.process_time()
try:
    streamconv.inspect(sys.argv[1])
except streamconv.BadCheckpoint as error:
    print(json.dumps([error.message, time.process_time() - begin, peak_bytes()]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(memory)], capture_output=True, text=True, check=True
    )
    message, seconds, peak = json.loads(done.stdout)
    assert says in message
    assert len(message) < 500
    assert seconds < SECONDS
    assert peak < MEMORY + size


@cases([case for case in CORPUS if case.number in ("A05", "A09", "A21", "B16", "C11", "D24")])
def test_a_process_ends_with_3(case: Case, tmp_path: Path) -> None:
    """Under a limit on its address space: the length that a file announces is not taken."""
    (tmp_path / FILE).write_bytes(case.raw)
    limited = "import resource as r; r.setrlimit(r.RLIMIT_AS, (2 * 2**30,) * 2); "
    done = subprocess.run(
        [
            *(sys.executable, "-c", f"{limited} from streamconv.cli import main; main()"),
            *("merge", str(tmp_path), f"{tmp_path}-out", "--no-progress"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 3, done.stderr
    assert done.stderr.startswith(f"streamconv: cannot read {FILE}: ")
    assert done.stderr.count("\n") <= 2
    assert done.stderr.replace("\n", "").isprintable()


# --- what nobody thought of --------------------------------------------------------------------

FILES = st.text("ab./\\:\0\n", max_size=6) | JSON


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(NAMES, FILES | FILES.map(lambda name: f"{name}.safetensors"), max_size=3))
def test_an_index_names_files_below_it_or_is_refused(weight_map: dict[str, Any]) -> None:
    try:
        index = read_index({"weight_map": weight_map}, "index.json")
        names = shard_names(index, [], "folder")
    except BadCheckpoint as error:
        assert error.message.isprintable()
        return
    assert {tensor for file in index.values() for tensor in file} == weight_map.keys()
    for name in names:
        path = PurePosixPath("/folder", name)
        assert path.is_relative_to("/folder")
        assert ".." not in path.parts
        assert not PureWindowsPath(name).drive
        assert "\\" not in name
        assert name.isprintable()
        assert name.endswith(".safetensors")
