"""Errors as people and programs see them; those of the system and of Python in words."""

import errno
import json
from pathlib import Path

import pytest

from streamconv.errors import BadCheckpoint, IOFailed, StreamconvError
from streamconv.report.error_json import error_fields
from streamconv.report.error_lines import ErrorPrinter, notes_of

Captured = pytest.CaptureFixture[str]
ERROR = BadCheckpoint("cannot read a: it is cut", "download it again")


def test_message_hint_and_notes_are_lines_below_one_another(capsys: Captured) -> None:
    ErrorPrinter(["merge"]).print_error(ERROR, "b is left", "")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "streamconv: cannot read a: it is cut",
        "            download it again",
        "            b is left",
    ]


@pytest.mark.parametrize(
    ("args", "variable", "is_json"),
    [
        (["inspect", "--json"], "", True),
        (["inspect", "--", "--json"], "", False),
        (["inspect"], "On", True),
        (["inspect"], "0", False),
    ],
)
def test_json_if_it_is_asked_for(
    args: list[str], variable: str, is_json: bool, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What follows `--` is no option."""
    monkeypatch.setenv("STREAMCONV_JSON", variable)
    ErrorPrinter(args).print_error(ERROR, "b is left")
    err = capsys.readouterr().err
    assert err.startswith("{") == is_json
    if is_json:
        assert json.loads(err) == error_fields(ERROR, ["b is left"], ERROR.exit_code)


def test_fields() -> None:
    """An empty hint is none; the exit code is that of the process."""
    fields = error_fields(IOFailed("cannot"), [], 130)
    assert fields["error"] == "IOFailed"
    assert (fields["hint"], fields["exit_code"], fields["notes"]) == (None, 130, [])


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (OSError(errno.ENOSPC, "No space left", "a/b"), 8, "cannot read or write a/b: No space"),
        (OSError("odd"), 8, "cannot read or write: odd"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), 8, "cannot run: Cannot allocate memory"),
        (MemoryError(), 8, "cannot run: there is not enough memory"),
        (ImportError("no module x\nmore"), 8, "cannot run: no module x\n"),
        (RuntimeError("can't start new thread"), 8, "cannot run: no thread can be started"),
        (RuntimeError("odd"), 1, "unexpected error: RuntimeError: odd"),
    ],
)
def test_what_nobody_has_put_into_words(
    error: Exception, code: int, says: str, capsys: Captured
) -> None:
    assert ErrorPrinter([]).print_unforeseen(error) == code
    assert capsys.readouterr().err.startswith(f"streamconv: {says}")


def test_a_reader_that_has_seen_enough_is_shown_nothing(capsys: Captured) -> None:
    assert ErrorPrinter([]).print_unforeseen(BrokenPipeError()) == 8
    assert capsys.readouterr().err == ""


def test_a_working_directory_that_is_gone(
    capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    ErrorPrinter([]).print_unforeseen(FileNotFoundError(errno.ENOENT, "No such file", "a"))
    assert "the working directory has been removed" in capsys.readouterr().err


def test_notes_are_those_that_were_added() -> None:
    error = StreamconvError("cannot")
    assert notes_of(error) == []
    error.add_note("dst is left")
    assert notes_of(error) == ["dst is left"]
