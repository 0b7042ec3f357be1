"""Bad input ends in one clear error with the right exit code, and leaves no files.

Every row is run through the Python API and as a dry run of the command line, which has to refuse
the same; some are run as a process of their own.
"""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from broken import (
    EXPERTS_1,
    SECOND,
    Row,
    arguments,
    check_error,
    row,
    rows,
    sound,
    with_tensor,
)
from broken_experts import EXPERTS
from broken_folders import FILES
from broken_requests import PLACES, REQUESTS
from click.testing import CliRunner
from folders import tree
from forked import command_line

import streamconv
from streamconv.cli import cli
from streamconv.errors import (
    BadCheckpoint,
    IOFailed,
    OutputExists,
    PlanRefused,
    StreamconvError,
    UsageError,
    VerifyFailed,
)
from streamconv.system.file_ops import Files

ROWS = [*EXPERTS, *FILES, *PLACES, *REQUESTS]


@rows(ROWS)
def test_is_refused(bad: Row, tmp_path: Path) -> None:
    bad.breaks(tmp_path / bad.src)
    before = tree(tmp_path)
    run = streamconv.convert if "to" in bad.options else streamconv.merge
    with pytest.raises(StreamconvError) as caught:
        run(f"{tmp_path}/{bad.src}", f"{tmp_path}/{bad.dst}", **bad.options)
    assert tree(tmp_path) == before
    check_error(caught.value, bad)


def test_an_unknown_layout_to_merge_to_is_refused(tmp_path: Path) -> None:
    sound(tmp_path / "src")
    with pytest.raises(UsageError, match="fuzed"):
        streamconv.merge(tmp_path / "src", tmp_path / "dst", to="fuzed")


@rows(ROWS)
def test_is_refused_by_a_dry_run_alike(bad: Row, tmp_path: Path) -> None:
    bad.breaks(tmp_path / bad.src)
    before = tree(tmp_path)
    result = CliRunner().invoke(
        cli, [*arguments(bad, tmp_path), "--dry-run"], standalone_mode=False
    )
    assert tree(tmp_path) == before
    check_error(result.exception, bad)


@rows([bad for bad in ROWS if bad.process])
def test_is_refused_by_a_process(bad: Row, tmp_path: Path) -> None:
    bad.breaks(tmp_path / bad.src)
    before = tree(tmp_path)
    done = command_line(*arguments(bad, tmp_path))
    said = done.stderr.decode()
    assert tree(tmp_path) == before
    assert done.code == bad.error.exit_code, said
    assert done.stdout == b""
    assert [word for word in bad.words if word not in said] == [], said
    assert said.startswith("streamconv: ")
    assert "Traceback" not in said
    assert said.replace("\n", "").isprintable()
    assert said.count("\n") <= 2


def test_every_exit_code_of_bad_input_is_seen_from_outside() -> None:
    """The sample that is run as processes has all classes of errors that it can have."""
    seen = {bad.error for bad in ROWS if bad.process}
    assert seen == {BadCheckpoint, PlanRefused, OutputExists}


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A superuser may read everything, so that opening is made to fail as it does for others."""
    sound(tmp_path / "src")
    open_read = Files.open_read

    def refuse(self: Files, path: Path) -> int:
        if path.name == SECOND:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return open_read(self, path)

    monkeypatch.setattr(Files, "open_read", refuse)
    with pytest.raises(IOFailed, match=rf"{SECOND}.*Permission denied"):
        streamconv.merge(tmp_path / "src", tmp_path / "dst")


@pytest.mark.parametrize("location", ["{}", "file://{}"])
@pytest.mark.parametrize("name", ["tokenizer.json", "notes/read me.txt"])
def test_a_file_to_copy_that_may_not_be_read(
    name: str, location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be copied last: run and dry run end before a shard is written."""
    src = sound(tmp_path / "src")
    (src / name).write_text("{}")
    (src / "pytorch_model.bin").write_text("is not copied")
    refused = {str(src / name), str(src / "pytorch_model.bin")}
    access = os.access
    monkeypatch.setattr(
        "os.access", lambda path, mode: str(path) not in refused and access(path, mode)
    )
    for options in ((), ("--dry-run",)):
        words = ["merge", location.format(src), str(tmp_path / "dst"), *options]
        result = CliRunner().invoke(cli, words, standalone_mode=False)
        assert isinstance(result.exception, IOFailed)
        assert f"{name}: Permission denied" in result.exception.message
        assert sorted(path.name for path in tmp_path.iterdir()) == ["src"]
    refused.remove(str(src / name))
    streamconv.merge(location.format(src), tmp_path / "dst")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("verb", ["inspect", "merge", "merge --dry-run", "verify", "check"])
def test_folders_nested_deeply(verb: str, tmp_path: Path) -> None:
    """More deeply than other programs can follow: every verb says so."""
    src = sound(tmp_path / "src")
    (src / ("a/" * 200)).mkdir(parents=True)
    name, *options = verb.split()
    words = [name, str(src), *([str(tmp_path / "dst")] if name == "merge" else []), *options]
    result = CliRunner().invoke(cli, words, standalone_mode=False)
    assert isinstance(result.exception, BadCheckpoint | VerifyFailed)
    assert "lies below more than 127 folders" in result.exception.message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["src"]


def test_an_absurd_expert_number_costs_no_memory(tmp_path: Path) -> None:
    """One name of a few bytes must not make a list of a billion experts."""
    bad = row(
        "",
        BadCheckpoint,
        with_tensor(f"{EXPERTS_1}999999999.gate_proj.weight", "BF16", 6, 4),
        "model.layers.1.mlp.experts",
        "missing",
    )
    bad.breaks(tmp_path / "src")
    limited = "import resource as r; r.setrlimit(r.RLIMIT_AS, (3 * 2**30,) * 2); "
    done = subprocess.run(
        [
            *(sys.executable, "-c", f"{limited} from streamconv.cli import main; main()"),
            *arguments(bad, tmp_path),
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == BadCheckpoint.exit_code, done.stderr
    assert "missing" in done.stderr
