"""The lines that a terminal shows, and untrusted text in them."""

import io
from pathlib import Path

import pytest
from rich.console import Console, RenderableType
from shard_plans import plan_of

from streamconv.execution.result import Result
from streamconv.planning.partition import Partition
from streamconv.report.messages import loading_table, part_line, result_lines, verification_lines
from streamconv.verification.result import KEPT_DIFFERENCES, Difference, Verification
from streamconv.verification.transformers_load import Loading


def verification(
    *differences: Difference, source: str | None = None, nbytes: int = 0
) -> Verification:
    count, seconds, peak = len(differences), 2.0, 10**9
    return Verification("dst", source, nbytes, differences, count, (), {}, seconds, peak)


def shown(renderable: RenderableType) -> list[str]:
    console = Console(file=io.StringIO(), width=200)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]


def test_a_conversion_that_is_complete() -> None:
    plan = plan_of([3 * 10**9, 10**9], Path("src"))
    result = Result(plan, Path("/dst"), 2.0, 250 * 10**6)
    line = "4.00 GB in 2 shards, 2.0 s (2.00 GB/s), peak memory 250 MB"
    first, second, last = result_lines(result)
    assert (first, second) == ("/dst: no model type, no experts -> no experts", line)
    assert last.startswith("next: load it with ")
    verified = Result(plan, Path("/dst"), 2.0, 250 * 10**6, verification())
    assert f"{line}, verified bit for bit" in result_lines(verified)


@pytest.mark.parametrize(
    ("name", "shown"),
    [("out", "out"), ("a/b", "a/b"), ("-out", None), ("hf:org/name", None), ("", None)],
)
def test_a_path_can_be_typed(
    name: str, shown: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the working directory, unless it would be read as an option or an address."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    result = Result(plan_of([1], Path("src")), path, 1.0, 1, part=Partition(1, 2))
    assert part_line(result).endswith(f"`streamconv finish {shown or path}`")
    assert next(result_lines(result)).startswith(f"{shown or path}: ")


def test_a_working_directory_that_was_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    result = Result(plan_of([1], Path("src")), tmp_path / "gone/out", 1.0, 1)
    assert next(result_lines(result)).startswith(f"{tmp_path / 'gone/out'}: ")
    monkeypatch.undo()


def test_a_conversion_in_no_time() -> None:
    result = Result(plan_of([10], Path("src")), Path("/dst"), 0.0, 1)
    assert "0.0 s" in "".join(result_lines(result))


def test_a_part_names_the_command_for_the_end() -> None:
    result = Result(plan_of([1], Path("src")), Path("/dst"), 61, 1, part=Partition(2, 4))
    assert part_line(result) == (
        "/dst: part 2 of 4 is complete, 1 min 01 s; after all parts, run `streamconv finish /dst`"
    )


@pytest.mark.parametrize(
    ("source", "nbytes", "verdict"),
    [
        ("src", 10, "dst: the conversion of src; 10 B checked"),
        (None, 10, "dst: as it was written; 10 B checked"),
        (None, 0, "dst: sound; 0 B checked"),
    ],
)
def test_the_verdict(source: str | None, nbytes: int, verdict: str) -> None:
    (line,) = verification_lines(verification(source=source, nbytes=nbytes))
    assert line.startswith(verdict)


def test_differences_have_no_verdict() -> None:
    """Twenty are shown, and the others are counted."""
    found = [Difference(f"w{k}", "is missing") for k in range(25)]
    lines = list(verification_lines(verification(*found)))
    assert lines[:20] == [f"w{k} is missing" for k in range(20)]
    assert lines[20:] == [f"... 5 more (--json shows up to {KEPT_DIFFERENCES:,})"]


def test_names_from_a_checkpoint_are_escaped() -> None:
    """A name with control characters cannot write over other lines."""
    found = Difference("a\x1b[2J\nb", "differs\r", 3, "up\n")
    assert list(verification_lines(verification(found))) == [
        r"a\x1b[2J\nb, expert 3, up\n differs\r"
    ]


def test_checksums_and_what_was_not_checked() -> None:
    found = Verification("dst", None, 0, (), 0, ("a: no rank has it",), {"f": "12ab"}, 1.0, 1)
    lines = list(verification_lines(found))
    assert lines[:2] == ["12ab  f", "not checked: a: no rank has it"]


def test_a_checkpoint_that_loads() -> None:
    lines = shown(loading_table("hub", Loading("QwenMoe", 1234, (), (), (), ())))
    assert lines == [
        "checkpoint hub",
        "model QwenMoe, 1,234 keys",
        "loads cleanly: every key has its tensor, every tensor its key",
    ]


def test_keys_that_would_not_load() -> None:
    """Twenty of each kind, and the number of the others."""
    missing = tuple(f"m{k}" for k in range(22))
    mismatched = (("k", (2, 3), (2, 4)),)
    found = Loading("QwenMoe", 1, missing, ("u",), mismatched, (("f", "bad"),), "a damaged one")
    assert shown(loading_table("hub", found))[2:] == [
        "damage a damaged one",
        *(f"missing m{k}" for k in range(20)),
        "missing ... 2 more (--json shows them)",
        "unexpected u",
        "mismatched k: [2, 3] in the checkpoint, [2, 4] in the model",
        "failed f: bad",
    ]
