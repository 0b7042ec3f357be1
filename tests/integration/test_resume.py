"""Resumed runs end in the same tree, byte for byte, as an undisturbed run.

The files of another conversion are refused, and so is a target that another run is writing.
"""

import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from faulty import Lockless
from folders import fused_tensors, old_checkpoint, qwen_tensors, tree, two_shards, write_checkpoint

import streamconv
from streamconv.cli import cli
from streamconv.errors import OutputExists, SourceChanged
from streamconv.execution.events import Event, PieceWritten, Prepared
from streamconv.sinks.journal import difference, opening_line, read_journal
from streamconv.sinks.replace import TargetReplacement
from streamconv.sinks.shard_files import Shards
from streamconv.system.file_ops import Files
from streamconv.system.linux_file_ops import LinuxFiles

SHARD = 200
SHARDS = 5
"""Bytes of a shard, and how many there are."""
PARTIAL = "dst.streamconv-partial"
JOURNAL = "streamconv-journal-1.jsonl"
JOURNAL_NEXT = f"dst.{JOURNAL}"
LOCK = "dst.streamconv-lock-1"


@pytest.fixture
def src(tmp_path: Path) -> Path:
    config = {"model_type": "qwen3_moe", "num_experts": 3}
    folder = write_checkpoint(tmp_path / "src", two_shards(qwen_tensors()), config)
    (folder / "notes").mkdir()
    (folder / "notes" / "readme.txt").write_bytes(b"text " * 1000)
    return folder


@pytest.fixture
def dst(tmp_path: Path) -> Path:
    return tmp_path / "dst"


@pytest.fixture
def undisturbed(src: Path, tmp_path: Path) -> dict[str, Any]:
    """The tree of an undisturbed run."""
    streamconv.merge(src, tmp_path / "elsewhere" / "undisturbed", max_shard_size=SHARD)
    return tree(tmp_path / "elsewhere" / "undisturbed")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "elsewhere")


def stopped(src: Path, dst: Path, pieces: int = 4, **options: Any) -> BaseException:
    """Stop a run at the piece of this number, and return its error."""
    seen: list[Event] = []

    def on_event(event: Event) -> None:
        seen.append(event)
        if sum(isinstance(each, PieceWritten) for each in seen) == pieces:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        streamconv.merge(src, dst, on_event=on_event, **{"max_shard_size": SHARD, **options})
    return caught.value


def resumed(src: Path, dst: Path, **options: Any) -> int:
    """Resume a run, and return how many shards were already complete."""
    found: list[int] = []

    def on_event(event: Event) -> None:
        if isinstance(event, Prepared):
            found.append(len(event.finished))

    options = {"max_shard_size": SHARD, "resume": True, **options}
    streamconv.merge(src, dst, on_event=on_event, **options)
    return found[0]


# --- going on ----------------------------------------------------------------------------------


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("form", [{}, {"format": "dcp"}, {"format": "dcp", "preset": "mindspeed"}])
def test_another_result_of_the_same_shapes(
    tmp_path: Path, src: Path, overwrite: bool, form: dict[str, Any]
) -> None:
    """It is not taken for that of a run that died in its commit and whose folder was removed."""
    options = {"max_shard_size": SHARD, **form}
    dst, other = tmp_path / "dst", tmp_path / "other"
    write_checkpoint(other, two_shards(qwen_tensors(seed=1)), {"model_type": "qwen3_moe"})
    for name in ("config.json", "notes"):
        copy = shutil.copytree if (src / name).is_dir() else shutil.copy
        copy(src / name, other / name)
    streamconv.merge(other, tmp_path / "dst", **options)
    streamconv.merge(src, tmp_path / "new", **options)
    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        patch.setattr(TargetReplacement, "commit", interrupt)
        streamconv.merge(src, dst, **options, overwrite=True)
    (tmp_path / JOURNAL_NEXT).write_bytes((tmp_path / PARTIAL / JOURNAL).read_bytes())
    shutil.rmtree(tmp_path / PARTIAL)
    before = tree(dst)
    if overwrite:
        streamconv.merge(src, dst, **options, overwrite=True, resume=True)
        assert tree(dst) == tree(tmp_path / "new")
    else:
        with pytest.raises(OutputExists, match="not empty"):
            streamconv.merge(src, dst, **options, resume=True)
        assert tree(dst) == before


def interrupt(self: TargetReplacement, folder: Path) -> None:
    raise KeyboardInterrupt


COPIES = [
    "dst.streamconv-journal-1.jsonl.bak",
    "dst.streamconv-journal-notes.md",
    "dst.streamconv-lock-1.old",
    "dst.streamconv-lock-notes",
]
"""Names of a user's files next to the target that begin like those of a run."""


def test_files_whose_names_begin_like_those_of_a_run(tmp_path: Path, src: Path) -> None:
    """Such as a copy of a journal: they are kept, and those in the partial folder named."""
    dst, inside = tmp_path / "dst", "streamconv-journal-1.jsonl.bak"
    for name in COPIES:
        (tmp_path / name).write_text("mine")
    for part in ("1/2", "2/2"):
        streamconv.merge(src, dst, max_shard_size=SHARD, part=part)
    (tmp_path / "dst.streamconv-partial" / inside).write_text("mine")
    for _ in range(2):
        with pytest.raises(OutputExists, match=re.escape(inside)):
            streamconv.finish(dst)
    (tmp_path / "dst.streamconv-partial" / inside).rename(tmp_path / inside)
    streamconv.finish(dst)
    for _ in range(2):
        streamconv.merge(src, dst, max_shard_size=SHARD, overwrite=True)
    assert sorted(path.name for path in tmp_path.glob("*streamconv*")) == [*COPIES, inside]
    assert {(tmp_path / name).read_text() for name in (*COPIES, inside)} == {"mine"}


@pytest.mark.parametrize("again", [{}, {"jobs": 1}, {"jobs": 4}, {"max_memory": "1GB"}])
def test_it_ends_in_the_same_tree(
    src: Path, dst: Path, tmp_path: Path, undisturbed: dict[str, Any], again: dict[str, Any]
) -> None:
    """For any number of workers and any memory, of both runs."""
    error = stopped(src, dst)
    assert names(tmp_path) == [PARTIAL, "src"]
    assert "--resume" in "".join(error.__notes__)
    assert resumed(src, dst, **again) >= 2
    assert tree(dst) == undisturbed
    assert names(tmp_path) == ["dst", "src"]


def test_a_path_that_is_not_utf8(tmp_path: Path) -> None:
    """Of source, target and other files: a run that was stopped goes on, and parts are finished."""
    folder, odd = tmp_path / os.fsdecode(b"caf\xe9"), os.fsdecode(b"\xe9.txt")
    folder.mkdir()
    src = write_checkpoint(folder / "src", two_shards(qwen_tensors()))
    (src / odd).touch()
    stopped(src, folder / odd)
    assert resumed(src, folder / odd) > 0
    for part in ("1/2", "2/2"):
        streamconv.merge(src, folder / "parts", part=part, max_shard_size=SHARD)
    streamconv.finish(folder / "parts", verify=True)
    assert tree(folder / "parts") == tree(folder / odd)


@pytest.mark.parametrize("preset", [None, "mindspeed"])
def test_a_dcp_is_resumed_too(src: Path, dst: Path, tmp_path: Path, preset: str | None) -> None:
    """Into a subfolder, with modes of its own, and with its manifest where it has it."""
    options: dict[str, Any] = {"preset": preset} if preset else {"format": "dcp"}
    streamconv.merge(src, tmp_path / "elsewhere", max_shard_size=SHARD, **options)
    stopped(src, dst, pieces=2, **options)
    with pytest.raises(OutputExists, match="file format"):
        resumed(src, dst)
    assert resumed(src, dst, **options) >= 1
    assert tree(dst) == tree(tmp_path / "elsewhere")
    modes = [
        {str(path.relative_to(place)): path.stat().st_mode for path in place.rglob("*")}
        for place in (dst, tmp_path / "elsewhere")
    ]
    assert modes[0] == modes[1]
    assert names(tmp_path) == ["dst", "src"]


@pytest.mark.parametrize("side", ["source", "target"])
def test_other_keys_of_a_dcp_are_another_conversion(
    src: Path, dst: Path, tmp_path: Path, side: str
) -> None:
    """Shards of both would lie in one folder, some with the one's names, some with the other's."""
    options: dict[str, Any] = {"format": "dcp", "hf_prefix": "model."}
    prefix = "dcp_prefix"
    if side == "source":
        streamconv.merge(src, tmp_path / "elsewhere", format="dcp")
        src, options = tmp_path / "elsewhere", {"dcp_prefix": "model.", "to": "per-expert"}
        prefix = "hf_prefix"
    stopped(src, dst, pieces=2, **options, **{prefix: "net."})
    with pytest.raises(OutputExists, match="belongs to another conversion"):
        resumed(src, dst, **options, **{prefix: "web."})
    assert resumed(src, dst, **options, **{prefix: "net."}) >= 1


def test_finished_shards_are_not_made_again(src: Path, dst: Path, tmp_path: Path) -> None:
    """They are the same files, and their tensors are not read."""
    stopped(src, dst, jobs=1)
    kept = {path.name: path.stat().st_ino for path in (tmp_path / PARTIAL).glob("*.safetensors")}
    assert kept
    resumed(src, dst)
    assert {name: (dst / name).stat().st_ino for name in kept} == kept


def test_a_moved_source_and_a_moved_target(
    src: Path, dst: Path, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    """Paths are no part of what a conversion is."""
    stopped(src, dst)
    src.rename(tmp_path / "src2")
    (tmp_path / PARTIAL).rename(tmp_path / "dst2.streamconv-partial")
    assert resumed(tmp_path / "src2", tmp_path / "dst2") >= 2
    assert tree(tmp_path / "dst2") == undisturbed


def test_stopped_again_and_again(
    src: Path, dst: Path, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    """Each run completes some shards, until all are complete."""
    for _ in range(20):
        try:
            stopped(src, dst, pieces=2, resume=True, jobs=1)
        except pytest.fail.Exception:
            break
    assert tree(dst) == undisturbed
    assert names(tmp_path) == ["dst", "src"]


def test_nothing_to_resume(src: Path, dst: Path, undisturbed: dict[str, Any]) -> None:
    """It is no error but a message: scripts always pass the flag, as with curl and aria2."""
    words = ["merge", str(src), str(dst), "--max-shard-size", f"{SHARD}B", "--resume"]
    done = CliRunner().invoke(cli, words, standalone_mode=False)
    assert done.exception is None
    assert "nothing to resume" in done.stderr
    assert tree(dst) == undisturbed


def test_without_a_finished_shard_nothing_is_left(src: Path, dst: Path, tmp_path: Path) -> None:
    def on_event(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        streamconv.merge(src, dst / "below" / "this", on_event=on_event)
    assert not hasattr(caught.value, "__notes__")
    assert names(tmp_path) == ["src"]


@pytest.mark.parametrize("damage", ["missing", "shorter"])
def test_a_finished_shard_that_is_not_there(
    src: Path, dst: Path, tmp_path: Path, undisturbed: dict[str, Any], damage: str
) -> None:
    """It is made again. Neither the name of a file nor a journal without its shard counts."""
    stopped(src, dst, jobs=1)
    shard = sorted((tmp_path / PARTIAL).glob("*.safetensors"))[0]
    if damage == "missing":
        shard.unlink()
    else:
        os.truncate(shard, shard.stat().st_size - 1)
    resumed(src, dst)
    assert tree(dst) == undisturbed


def test_files_that_no_journal_knows_are_not_kept(
    src: Path, dst: Path, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    """A shard that looks finished is made again; what no run has written is refused and kept."""
    stopped(src, dst, pieces=2, jobs=1)
    stray = tmp_path / PARTIAL / "stray.txt"
    stray.write_text("x")
    for overwrite in (False, True):
        with pytest.raises(OutputExists, match=r"no conversion has written, or .*/stray\.txt"):
            streamconv.merge(
                src, dst, max_shard_size=SHARD, resume=not overwrite, overwrite=overwrite
            )
    stray.unlink()
    name = f"model-{SHARDS:05}-of-{SHARDS:05}.safetensors"
    assert name in undisturbed
    # the workers may have been quicker than the signal to stop
    journal = tmp_path / PARTIAL / JOURNAL
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(line for line in lines if name not in line))
    (tmp_path / PARTIAL / name).write_bytes(bytes(len(undisturbed[name])))
    resumed(src, dst)
    assert tree(dst) == undisturbed


def test_killed_right_before_the_rename(
    src: Path, dst: Path, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    """The journal has left the folder already, and is next to it."""
    killed_at_rename(src, dst, 1, before=True)
    assert names(tmp_path) == [f"dst.{JOURNAL}", LOCK, PARTIAL, "src"]
    assert tree(tmp_path / PARTIAL) == undisturbed
    with pytest.raises(OutputExists, match="200 there, 300 here"):
        resumed(src, dst, max_shard_size=SHARD + 100)
    assert resumed(src, dst) == SHARDS
    assert tree(dst) == undisturbed
    assert names(tmp_path) == ["dst", "src"]


def test_killed_right_after_the_rename(
    src: Path, dst: Path, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    """The result is complete; what is left next to it is removed by a run with --resume."""
    killed_at_rename(src, dst, 1)
    assert tree(dst) == undisturbed
    with pytest.raises(OutputExists, match="not empty"):
        streamconv.merge(src, dst, max_shard_size=SHARD)
    assert resumed(src, dst) > 0
    assert tree(dst) == undisturbed
    assert names(tmp_path) == ["dst", "src"]


def killed_at_rename(
    src: Path, dst: Path, at: int, *, before: bool = False, overwrite: bool = False
) -> None:
    """Kill a run right before or after one of its last renames."""
    pid = os.fork()
    if pid == 0:
        renames: list[Path] = []

        def rename(self: Files, source: Path, target: Path) -> None:
            if source.name in ("dst", PARTIAL):
                renames.append(source)
            if before and len(renames) == at:
                os.kill(os.getpid(), signal.SIGKILL)
            source.rename(target)
            if len(renames) == at:
                os.kill(os.getpid(), signal.SIGKILL)

        Files.rename = rename  # type: ignore[method-assign]
        streamconv.merge(src, dst, max_shard_size=SHARD, overwrite=overwrite)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


# --- what is refused ---------------------------------------------------------------------------


def other_size(src: Path) -> dict[str, Any]:
    return {"max_shard_size": 300}


def other_target(src: Path) -> dict[str, Any]:
    return {"to": "stacked"}


def other_headers(src: Path) -> dict[str, Any]:
    shards = two_shards(qwen_tensors())
    first = next(iter(shards.values()))
    first["model.norm2.weight"] = first.pop("model.norm.weight")
    config = {"model_type": "qwen3_moe", "num_experts": 3}
    write_checkpoint(src, shards, config)
    return {}


def other_file(src: Path) -> dict[str, Any]:
    (src / "notes" / "readme.txt").write_text("other")
    return {}


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        (other_size, ("shard size", "200 there", "300 here")),
        (other_target, ("target: form", '"transformers" there', "none here")),
        (other_headers, ("source", "model-00001-of-00002.safetensors", "there", "here")),
        (other_file, ("notes/readme.txt", "5000 there", "5 here")),
    ],
)
def test_another_conversion_is_refused_with_both_facts(
    src: Path,
    dst: Path,
    tmp_path: Path,
    change: Callable[[Path], dict[str, Any]],
    facts: tuple[str, ...],
) -> None:
    stopped(src, dst)
    before = tree(tmp_path / PARTIAL)
    options = change(src)
    with pytest.raises(OutputExists) as caught:
        resumed(src, dst, **options)
    for fact in facts:
        assert fact in caught.value.message
    assert tree(tmp_path / PARTIAL) == before
    assert names(tmp_path) == [PARTIAL, "src"]


def test_without_the_flag_both_ways_out_are_named(
    src: Path, dst: Path, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    stopped(src, dst)
    with pytest.raises(OutputExists) as caught:
        streamconv.merge(src, dst, max_shard_size=SHARD)
    assert "--resume" in caught.value.hint
    assert "--overwrite" in caught.value.hint
    streamconv.merge(src, dst, max_shard_size=SHARD, overwrite=True)
    assert tree(dst) == undisturbed
    assert names(tmp_path) == ["dst", "src"]


def test_a_folder_of_that_name_without_a_journal(src: Path, dst: Path, tmp_path: Path) -> None:
    """Nobody knows whose it is."""
    (tmp_path / PARTIAL).mkdir()
    (tmp_path / PARTIAL / "precious").write_text("keep this")
    with pytest.raises(OutputExists, match="no journal"):
        resumed(src, dst)
    assert tree(tmp_path / PARTIAL) == {"precious": b"keep this"}


def test_a_dry_run_exits_as_the_run_would(src: Path, dst: Path, tmp_path: Path) -> None:
    stopped(src, dst)
    for more, refused in ((["--resume"], False), ([], True), (["--resume", "--layers=0:1"], True)):
        words = ["merge", str(src), str(dst), "-n", "--max-shard-size", f"{SHARD}B", *more]
        done = CliRunner().invoke(cli, words, standalone_mode=False)
        assert isinstance(done.exception, OutputExists) == refused
    assert names(tmp_path) == [PARTIAL, "src"]


def test_a_changed_source_is_not_resumed(src: Path, dst: Path, tmp_path: Path) -> None:
    """Other bytes under the same header: the shards made of the old ones are removed."""
    changed: list[Event] = []

    def on_event(event: Event) -> None:
        if isinstance(event, PieceWritten) and len(changed) < 3:
            changed.append(event)
            if len(changed) == 3:
                path = src / "model-00001-of-00002.safetensors"
                path.write_bytes(path.read_bytes()[:-1] + b"!")

    with pytest.raises(SourceChanged, match="model-00001") as caught:
        streamconv.merge(src, dst, max_shard_size=SHARD, on_event=on_event)
    assert caught.value.exit_code == 3
    assert not hasattr(caught.value, "__notes__")
    assert names(tmp_path) == ["src"]


def test_another_layout_of_the_source_is_refused(dst: Path, tmp_path: Path) -> None:
    """The same headers hold other experts if another `--from` or layout is given."""
    fused = fused_tensors((3, 4, 12), (3, 6, 4))
    config = {"model_type": "qwen3_moe", "num_experts": 3}
    src = write_checkpoint(tmp_path / "src", two_shards(fused), config)
    declared_layout = "fused-transposed"
    stopped(src, dst, pieces=2, to="per-expert", source_layout=declared_layout)
    with pytest.raises(OutputExists) as caught:
        resumed(src, dst, to="per-expert", source_layout="fused-interleaved")
    stack = "source layouts: model.layers.*.mlp.experts"
    assert f'{stack}: layout: "{declared_layout}" there, "fused-inter' in caught.value.message

    plan = streamconv.plan(
        src, to="per-expert", source_layout=declared_layout, max_shard_size=SHARD
    )
    journal = read_journal([opening_line(plan)])
    assert journal is not None
    assert difference(plan, journal) == ""
    row = plan.source.stacks[0].row
    templates = {**row.layout.templates, "down": row.layout.templates["gate_up"]}
    edited = replace(row, layout=replace(row.layout, templates=templates))
    stacks = tuple(replace(each, row=edited) for each in plan.source.stacks)
    again = replace(plan, source=replace(plan.source, stacks=stacks))
    assert difference(again, journal).startswith(f'{stack}: templates: "')


# --- replacing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [1, 2])
def test_killed_while_replacing(
    src: Path, dst: Path, tmp_path: Path, undisturbed: dict[str, Any], at: int
) -> None:
    """After the first rename, the old target is put back; after the second, the new one stays."""
    old = old_checkpoint(dst)
    killed_at_rename(src, dst, at, overwrite=True)
    if at == 1:
        assert not dst.exists()
        with pytest.raises(OutputExists, match="not empty"):
            resumed(src, dst)
        assert tree(dst) == old
        assert resumed(src, dst, overwrite=True) == SHARDS
    else:
        assert tree(dst) == undisturbed
        with pytest.raises(OutputExists, match="streamconv-replaced exists"):
            resumed(src, dst)
        assert tree(tmp_path / "dst.streamconv-replaced") == old
        resumed(src, dst, overwrite=True)
    assert tree(dst) == undisturbed
    assert names(tmp_path) == ["dst", "src"]


# --- two runs into one target ------------------------------------------------------------------


@pytest.fixture
def other_run(src: Path, dst: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process in the middle of a conversion into the target."""
    script = """
import sys, time, streamconv
def on_event(event):
    print("running", flush=True)
    if type(event).__name__ == "PieceWritten":
        sys.stdin.read()
streamconv.merge(sys.argv[1], sys.argv[2], on_event=on_event)
"""
    running = subprocess.Popen(
        [sys.executable, "-c", script, str(src), str(dst)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None
    for _ in range(3):
        assert running.stdout.readline() == "running\n"
    yield running
    running.kill()
    running.communicate()


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
@pytest.mark.parametrize("kind", [LinuxFiles, Lockless])
def test_the_second_of_two_runs_is_refused(
    src: Path,
    dst: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    other_run: "subprocess.Popen[str]",
    options: dict[str, Any],
    kind: type[Files],
) -> None:
    """With the process that is at work; that one is not disturbed."""
    monkeypatch.setattr("streamconv.sinks.checkpoint_folder.system_files", kind)
    with pytest.raises(OutputExists) as caught:
        streamconv.merge(src, dst, **options)
    assert f"process {other_run.pid} on {platform.node()}" in caught.value.message
    words = ["merge", str(src), str(dst), "-n", *[f"--{name}" for name in options]]
    done = CliRunner().invoke(cli, words, standalone_mode=False)
    assert isinstance(done.exception, OutputExists)
    other_run.communicate("")
    assert other_run.returncode == 0
    assert names(tmp_path) == ["dst", "src"]


@pytest.mark.parametrize("kind", [LinuxFiles, Lockless])
def test_a_dead_run_holds_nothing(
    src: Path,
    dst: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    other_run: "subprocess.Popen[str]",
    kind: type[Files],
) -> None:
    monkeypatch.setattr("streamconv.sinks.checkpoint_folder.system_files", kind)
    other_run.kill()
    other_run.wait()
    assert (tmp_path / LOCK).exists()
    streamconv.merge(src, dst, resume=True)
    assert names(tmp_path) == ["dst", "src"]


# --- what a run may lose -----------------------------------------------------------------------


def test_no_more_shards_are_open_than_there_are_workers(
    src: Path, dst: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that no more are lost than that, however a run ends."""
    opened: list[int] = []

    class Watching(Shards):
        def write(self, number: int, offset: int, data: memoryview) -> bool:
            done = super().write(number, offset, data)
            opened.append(len(self._open))
            return done

    monkeypatch.setattr("streamconv.sinks.open_folder.Shards", Watching)
    for jobs in (1, 2, 3):
        streamconv.merge(src, dst, max_shard_size=SHARD, jobs=jobs, overwrite=True)
        assert max(opened) <= jobs
        opened.clear()
