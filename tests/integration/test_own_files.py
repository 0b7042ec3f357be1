"""Files that a run keeps next to its target: whatever is in one of them, each verb ends in words.

A table of contents for each of the files, and every verb that reads them.
"""

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from folders import qwen_tensors, tree, two_shards, write_checkpoint
from pairs import pairwise
from xxhash import xxh3_64_hexdigest

import streamconv
from streamconv.errors import StreamconvError
from streamconv.sinks.run_paths import RunPaths

VALUES = ("null", "true", "-1", "1e999", "NaN", '"x"', '"\\ud800"', "[]", "[[]]", "{}", '{"a": 1}')


def signed(body: str) -> bytes:
    """A line of a journal with the right digest for any body."""
    with suppress(ValueError, RecursionError):
        body = json.dumps(json.loads(body), sort_keys=True)
    return f'["{xxh3_64_hexdigest(body.encode())}", {body}]\n'.encode()


ANYWHERE: dict[str, bytes] = {
    "nothing": b"",
    "a line without an end": b"{",
    "no text": bytes(range(256)),
    "nested": b"[" * 100_000,
    "nested and closed": b"[" * 900 + b"]" * 900,
    "5,000 digits": b"9" * 5000,
    **{value: value.encode() for value in VALUES},
}
IN_JOURNALS = {
    **{f"signed {value}": signed(value) * 2 for value in VALUES},
    **{f"facts are {value}": signed(f'{{"facts": {value}}}') for value in VALUES},
    "signed and nested": signed("[" * 100_000),
    "signed and nested facts": signed('{"facts": ' + "[" * 900 + "]" * 900 + "}"),
    "signed digits": signed(f'{{"facts": {"9" * 4300}}}'),
}
FIELDS = ("src", "options", "pid", "number", "of", "host", "since")
IN_OTHERS = {
    f"{name} is {value}": f'{{"{name}": {value}}}'.encode()
    for name in FIELDS
    for value in ("null", "{}", "9" * 4300, '"\\u001b[31m"')
}
FILES: dict[str, Callable[[RunPaths], Path]] = {
    "lock": lambda paths: paths.lock(1),
    "another lock": lambda paths: paths.lock(2),
    "journal": lambda paths: paths.journal(1),
    "another journal": lambda paths: paths.journal(2),
    "moved journal": lambda paths: paths.moved(paths.journal(1)),
    "request": lambda paths: paths.request,
    "moved request": lambda paths: paths.moved(paths.request),
    "listing": lambda paths: paths.listing,
}
RUNS: dict[str, dict[str, Any]] = {
    "merge": {},
    "resume": {"resume": True},
    "overwrite": {"overwrite": True},
    "part": {"part": "2/2"},
}


def contents(file: str) -> dict[str, bytes]:
    """What may be in it, by name."""
    return ANYWHERE | (IN_JOURNALS if "journal" in file else IN_OTHERS)


CASES = pairwise(
    [*FILES],
    [*RUNS, "finish"],
    [*ANYWHERE, *IN_JOURNALS, *IN_OTHERS],
    exists=lambda file, verb, name: name in contents(file),
)
"""Files, verbs that read them, and what is in them."""


@pytest.fixture(scope="module")
def made(memory: Path) -> Path:
    """A source, the right result, and what the first part of a run has left."""
    tensors = qwen_tensors(layers=1, experts=1)
    src = write_checkpoint(memory / "made" / "src", two_shards(tensors))
    streamconv.merge(src, memory / "right", max_shard_size=300)
    streamconv.merge(src, memory / "made" / "out", part="1/2", max_shard_size=300)
    return memory / "made"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("verb", [*RUNS, "finish"])
@pytest.mark.parametrize("file", FILES)
def test_any_content_ends_in_words(file: str, verb: str, made: Path) -> None:
    """Or the conversion is right, as after the journals of a run that have been damaged."""
    right, place = tree(made.parent / "right"), made.parent / "place"
    for name in (case[2] for case in CASES if case[:2] == (file, verb)):
        shutil.copytree(made, place)
        paths = RunPaths(place / "out")
        FILES[file](paths).write_bytes(contents(file)[name])
        try:
            if verb == "finish":
                streamconv.finish(paths.target)
            else:
                streamconv.merge(place / "src", paths.target, max_shard_size=300, **RUNS[verb])
        except StreamconvError as error:
            assert error.exit_code in (3, 6, 8), name
            assert error.message.isprintable()
            assert len(error.message) < 1000
        else:
            assert verb == "part" or tree(paths.target) == right
        assert tree(place / "src") == tree(made / "src")
        shutil.rmtree(place)
