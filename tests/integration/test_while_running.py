"""What fails or changes between the plan and the end: disk, source, target, listener."""

# Changes made by a lambda are calls in a list, whose values nobody needs.
# mypy: disable-error-code="func-returns-value"
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from broken import PARTIAL, SECOND, filled, sound
from folders import old_checkpoint, qwen_tensors, tree, write_sparse

import streamconv
from streamconv.errors import (
    BadCheckpoint,
    IOFailed,
    NoSpace,
    OutputExists,
    SourceChanged,
    StreamconvError,
    UsageError,
)
from streamconv.execution.events import PieceWritten
from streamconv.sinks.checkpoint_folder import CheckpointFolder
from streamconv.sources.base import Read
from streamconv.sources.safetensors_folder import LocalSource
from streamconv.system.file_ops import Files
from streamconv.system.linux_file_ops import system_files
from streamconv.verification.result import VerifyStarted


@pytest.mark.parametrize("overwrite", [False, True])
def test_too_little_disk_is_reported_before_the_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    sound(tmp_path / "src")
    if overwrite:
        old_checkpoint(tmp_path / "dst")
    before = tree(tmp_path)
    monkeypatch.setattr("streamconv.sinks.preflight.free_disk", lambda folder: 5000)
    with pytest.raises(NoSpace, match=r"5\.\d\d kB needed, 5\.00 kB free"):
        streamconv.merge(tmp_path / "src", tmp_path / "dst", overwrite=overwrite)
    assert tree(tmp_path) == before
    monkeypatch.setattr("streamconv.sinks.preflight.free_disk", lambda folder: 6000)
    streamconv.merge(tmp_path / "src", tmp_path / "dst", overwrite=overwrite)


@pytest.mark.parametrize("seen", [True, False])
def test_files_may_be_only_so_large(tmp_path: Path, seen: bool) -> None:
    """The limit is checked beforehand. If that is impossible, the error names it."""
    sound(tmp_path / "src", qwen_tensors(hidden=128))
    before = tree(tmp_path)
    limited = "import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (20_000,) * 2); "
    if not seen:
        limited += "import streamconv.sinks.preflight as p; p.file_size_limit = lambda: None; "
    done = subprocess.run(
        [
            *(sys.executable, "-c", f"{limited} from streamconv.cli import main; main()"),
            *("merge", str(tmp_path / "src"), str(tmp_path / "dst")),
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == NoSpace.exit_code, done.stderr
    assert ("largest file" if seen else "model.safetensors: File too large") in done.stderr
    assert "20.0 kB" in done.stderr
    assert "ulimit -f" in done.stderr
    assert "Traceback" not in done.stderr
    assert tree(tmp_path) == before


def test_every_worker_reports_a_full_disk_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second worker that opens a shard must not stumble over what the first one left of it."""

    def create(self: Files, path: Path, size: int) -> int:
        path.open("xb").close()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    sound(tmp_path / "src")
    monkeypatch.setattr(type(system_files()), "create", create)
    sink = CheckpointFolder(tmp_path / "dst")
    output = sink.prepare(streamconv.plan(tmp_path / "src"))
    for offset in (0, 4096):
        with pytest.raises(NoSpace, match=r"model\.safetensors: No space"):
            output.write(0, offset, memoryview(bytes(4096)))
    output.abort()
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


# What changes between the plan and the end.


def while_running(
    tmp_path: Path, change: Callable[[Path], object], left: Sequence[str] = ()
) -> StreamconvError:
    """The error of a merge in which `change` is done to the source once it is planned."""
    sound(tmp_path / "src")
    changes = [change]

    def on_event(event: object) -> None:
        while changes:
            changes.pop()(tmp_path / "src")

    with pytest.MonkeyPatch.context() as unread, pytest.raises(StreamconvError) as caught:
        # a file that was sampled is open, and its bytes stay if it is removed
        unread.setattr("streamconv.execution.pipeline.sampled_digest", lambda source: "")
        streamconv.merge(tmp_path / "src", tmp_path / "dst", on_event=on_event)
    assert not changes
    assert sorted(path.name for path in tmp_path.iterdir()) == [*left, "src"]
    return caught.value


def test_a_shard_becomes_shorter_meanwhile(tmp_path: Path) -> None:
    error = while_running(tmp_path, lambda src: os.truncate(src / SECOND, 900))
    assert isinstance(error, BadCheckpoint)
    assert SECOND in error.message
    assert "900" in error.message


def test_a_shard_goes_away_meanwhile(tmp_path: Path) -> None:
    error = while_running(tmp_path, lambda src: (src / SECOND).unlink())
    assert isinstance(error, IOFailed)
    assert SECOND in error.message


@pytest.mark.parametrize("replaced", [False, True])
def test_an_open_shard_goes_away_meanwhile(tmp_path: Path, replaced: bool) -> None:
    """Its bytes are there until it is closed, and the result may be all that is left of them."""
    sound(tmp_path / "src")
    streamconv.merge(tmp_path / "src", tmp_path / "wanted")

    def on_event(event: object) -> None:
        if isinstance(event, streamconv.Prepared):
            (tmp_path / "src" / SECOND).unlink()
            if replaced:
                (tmp_path / "src" / SECOND).write_bytes(bytes(900))

    streamconv.merge(tmp_path / "src", tmp_path / "dst", on_event=on_event)
    assert tree(tmp_path / "dst") == tree(tmp_path / "wanted")


@pytest.mark.parametrize("role", ["source", "template", "family"])
def test_the_working_directory_changes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    """What is named from there is still held against what the run removes."""
    sound(tmp_path / "src")
    sound(tmp_path / "dst")
    (tmp_path / "dst" / "family.toml").write_text("")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    options: dict[str, Any] = {
        "template": {"template": "dst"},
        "family": {"family": "dst/family.toml"},
    }
    before = tree(tmp_path)

    def on_event(event: object) -> None:
        os.chdir(tmp_path / "elsewhere")

    with pytest.raises(OutputExists, match=f"{role}.* overlap"):
        streamconv.merge(
            "dst" if role == "source" else "src",
            tmp_path / "dst",
            overwrite=True,
            on_event=on_event,
            **options.get(role, {}),
        )
    assert tree(tmp_path) == before


def test_another_file_goes_away_meanwhile(tmp_path: Path) -> None:
    """Finished shards stay, because the file may come back."""
    left = [PARTIAL]
    error = while_running(tmp_path, lambda src: (src / "notes" / "readme.txt").unlink(), left)
    assert isinstance(error, IOFailed)
    assert "notes/readme.txt" in error.message


def test_a_shard_is_replaced_by_one_of_the_same_size_meanwhile(tmp_path: Path) -> None:
    """Bytes read where the old header said would be those of other tensors."""

    def exchange(src: Path) -> None:
        raw = (src / SECOND).read_bytes()
        for old, new in ((b"experts.0.", b"experts.9."), (b"experts.1.", b"experts.0.")):
            raw = raw.replace(old, new)
        (src / SECOND).write_bytes(raw.replace(b"experts.9.", b"experts.1."))

    error = while_running(tmp_path, exchange)
    assert isinstance(error, BadCheckpoint)
    assert SECOND in error.message
    assert "changed" in error.message


def test_a_file_that_changes_while_the_result_is_verified(tmp_path: Path) -> None:
    """All that was made of the source is removed, as it is before the verification."""
    sound(tmp_path / "src")

    def on_event(event: object) -> None:
        if isinstance(event, VerifyStarted):
            (tmp_path / "src" / "notes" / "readme.txt").write_bytes(b"")

    with pytest.raises(SourceChanged, match=r"readme\.txt"):
        streamconv.merge(tmp_path / "src", tmp_path / "dst", on_event=on_event, verify=True)
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


def test_a_failing_listener_leaves_no_files(tmp_path: Path) -> None:
    sound(tmp_path / "src")
    before = tree(tmp_path)
    seen: list[object] = []

    def on_event(event: object) -> None:
        seen.append(event)
        if len(seen) == 2:
            assert (tmp_path / "dst.streamconv-partial").is_dir()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        streamconv.merge(tmp_path / "src", tmp_path / "dst", on_event=on_event)
    assert tree(tmp_path) == before


def test_the_target_is_taken_meanwhile(tmp_path: Path) -> None:
    sound(tmp_path / "src")

    def on_event(event: object) -> None:
        if isinstance(event, PieceWritten) and not (tmp_path / "dst").exists():
            filled(tmp_path / "dst")

    with pytest.raises(StreamconvError) as caught:
        streamconv.merge(tmp_path / "src", tmp_path / "dst", on_event=on_event)
    assert "dst" in caught.value.message
    assert tree(tmp_path / "dst") == {"precious": b"keep this"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dst", PARTIAL, "src"]


@pytest.mark.parametrize("failing", ["dst", "dst.streamconv-partial"])
def test_an_old_target_is_put_back_if_it_cannot_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """Neither the first rename of a replacement nor the second may lose the old target."""
    sound(tmp_path / "src")
    old_checkpoint(tmp_path / "dst")
    before = tree(tmp_path)
    rename = Files.rename

    def fail(self: Files, source: Path, target: Path) -> None:
        if source.name == failing:
            raise PermissionError(1, "Operation not permitted")
        rename(self, source, target)

    monkeypatch.setattr(Files, "rename", fail)
    with pytest.raises(IOFailed, match="not permitted"):
        streamconv.merge(tmp_path / "src", tmp_path / "dst", overwrite=True)
    after = tree(tmp_path)
    assert {name: what for name, what in after.items() if PARTIAL not in name} == before
    monkeypatch.undo()
    streamconv.merge(tmp_path / "src", tmp_path / "dst", overwrite=True, resume=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dst", "src"]


def test_a_signal_waits_for_no_more_than_the_bytes_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many a piece has, of which 4 MiB are read at once."""
    src = write_sparse(tmp_path / "src", layers=1, experts=2, hidden=1024, intermediate=4096)
    read = LocalSource.read
    reads = 0

    def interrupt(self: LocalSource, batch: Sequence[Read]) -> None:
        nonlocal reads
        reads += 1
        if reads == 2:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
        read(self, batch)

    monkeypatch.setattr(LocalSource, "read", interrupt)
    # a shell starts background jobs with SIGINT ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        streamconv.merge(src, tmp_path / "dst", jobs=1)
    assert reads == 2


def test_a_worker_count_of_nothing(tmp_path: Path) -> None:
    sound(tmp_path / "src")
    with pytest.raises(UsageError, match="0 workers"):
        streamconv.merge(tmp_path / "src", tmp_path / "dst", jobs=0)


@pytest.mark.parametrize("option", ["template", "family"])
def test_an_option_that_names_what_a_run_removes(tmp_path: Path, option: str) -> None:
    """Refused, and both paths are named; nothing is removed."""
    sound(tmp_path / "src")
    sound(tmp_path / "dst")
    (tmp_path / "dst" / "families.toml").touch()
    named = {"template": tmp_path / "dst", "family": tmp_path / "dst" / "families.toml"}[option]
    source = tmp_path / "src"
    if option == "template":
        streamconv.convert(source, tmp_path / "dcp", to="hub", format="dcp")
        source = tmp_path / "dcp"
    before = tree(tmp_path)
    path = "" if option == "template" else f" {named}"  # that of the target is named already
    with pytest.raises(OutputExists, match=rf"dst: target and --{option}{path} overlap"):
        streamconv.convert(
            source, tmp_path / "dst", to="fused-transposed", overwrite=True, **{option: str(named)}
        )
    assert tree(tmp_path) == before
