"""The command line: what it prints and where, its exit codes, and the files that it leaves.

Mostly run in this process; as one of its own where signals, streams or the terminal matter.
What bad input does is in `test_bad_input.py`.
"""

import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from folders import (
    old_checkpoint,
    qwen_tensors,
    read_checkpoint,
    tree,
    two_shards,
    write_checkpoint,
    write_sparse,
)

import streamconv
from streamconv.cli import cli, main
from streamconv.errors import BadCheckpoint, OutputExists, PlanRefused, UsageError

CONVERSIONS = ("merge", "split", "convert")
OMNI = {"model_type": "qwen3_omni_moe"}


@pytest.fixture
def src(tmp_path: Path) -> Path:
    config = {"model_type": "qwen3_moe", "num_experts": 3}
    return write_checkpoint(tmp_path / "src", two_shards(qwen_tensors()), config)


@pytest.fixture
def dst(tmp_path: Path) -> Path:
    return tmp_path / "dst"


def invoke(*words: object, **environment: str) -> Result:
    """Run the command line in this process. Fails if it does not exit with 0."""
    result = attempt(*words, **environment)
    if result.exception is not None:
        raise result.exception
    return result


def attempt(*words: object, **environment: str) -> Result:
    """Run the command line in this process. The result has the exception, if there is one."""
    return CliRunner().invoke(cli, list(map(str, words)), env=environment, standalone_mode=False)


def process(*words: object, **more: Any) -> "subprocess.CompletedProcess[str]":
    """The command line as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "streamconv", *map(str, words)],
        check=False,
        stdout=more.pop("stdout", subprocess.PIPE),
        stderr=more.pop("stderr", subprocess.PIPE),
        env={**os.environ, **more.pop("environment", {})},
        text=True,
        timeout=60,
        **more,
    )


def verb_with_target(verb: str, src: Path, dst: Path) -> list[str]:
    """A complete command line of one of the verbs that convert."""
    # what is split already would be written again unchanged
    more = {"convert": ["--to", "fused"], "split": ["--copy"]}
    return [verb, str(src), str(dst), *more.get(verb, [])]


# Help and usage.


def test_it_runs_as_a_module_and_as_a_script() -> None:
    script = Path(sysconfig.get_path("scripts"), "streamconv")
    for command in ([sys.executable, "-m", "streamconv"], [str(script)]):
        done = subprocess.run([*command, "--version"], check=False, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), command
        assert done.stdout == f"streamconv {streamconv.__version__}\n", command


def test_the_working_directory_is_no_place_for_modules(src: Path) -> None:
    """It may be a checkpoint, and nothing in one is run."""
    for name in ("click", "json", "torch", "numpy"):
        (src / f"{name}.py").write_text("raise SystemExit('it was imported')\n")
    done = process("merge", ".", "../dst", "--verify", cwd=src)
    assert (done.returncode, "it was imported" in done.stderr) == (0, False), done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["--nonsense"],
        ["explode"],
        [],
        ["inspect"],
        ["merge", "a"],
        ["merge", "a", "b", "c"],
        ["merge", "a", "b", "--nonsense"],
        ["merge", "a", "b", "--jobs", "0"],
        ["merge", "a", "b", "--jobs", "many"],
        ["merge", "a", "b", "--max-shard-size"],
        ["merge", "a", "b", "--layout", "fused"],
        ["convert", "a", "b", "--to"],
        ["split", "a", "b", "--to", "fused"],
        ["inspect", "a", "--dry-run"],
    ],
)
def test_wrong_usage_is_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """It looks like any other error, with a hint; no word at all is answered by the help."""
    with pytest.raises(SystemExit) as caught:
        main(words)
    said = capsys.readouterr()
    assert caught.value.code == 2
    assert said.out == ""
    if words:
        assert said.err.startswith("streamconv: ")
        assert said.err.splitlines()[1].lstrip().startswith("run `")
    else:
        assert said.err.startswith("Usage: ")


def test_wrong_usage_is_2_for_a_process() -> None:
    done = process("merge", "a", "b", "--nonsense")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "streamconv: no such option '--nonsense'",
        "            run `python -m streamconv merge --help` to see arguments and options",
    ]


# What is shown.


def test_inspect_shows_what_is_in_there(src: Path) -> None:
    before = tree(src)
    shown = invoke("inspect", src).stdout
    for words in ("qwen3_moe", "hub", "24 in 2 files", "976 B", "model.layers.*.mlp.experts"):
        assert words in shown
    assert "per-expert" in shown
    assert "BF16" in shown
    assert tree(src) == before


def test_inspect_json_is_one_document(src: Path) -> None:
    done = process("inspect", src, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    fields = json.loads(done.stdout)
    assert (fields["schema"], fields["kind"], fields["model_type"]) == (
        2,
        "inspection",
        "qwen3_moe",
    )
    assert (fields["tensors"], fields["tensor_bytes"]) == (24, 976)
    (stack,) = fields["stacks"]
    assert (stack["layout"], stack["layers"], stack["experts"]) == ("per-expert", 2, 3)


@pytest.mark.parametrize("verb", CONVERSIONS)
def test_a_dry_run_writes_nothing(verb: str, src: Path, dst: Path) -> None:
    before = tree(src.parent)
    assert invoke(*verb_with_target(verb, src, dst), "--dry-run").stdout
    assert invoke(*verb_with_target(verb, src, dst), "-n", "--json").stdout
    assert tree(src.parent) == before


def test_a_dry_run_shows_what_a_run_does(src: Path, dst: Path) -> None:
    words = ["merge", src, dst, "--max-shard-size", "700B"]
    shown = invoke(*words, "--dry-run").stdout
    invoke(*words)
    files = {path.name: path.stat().st_size for path in dst.glob("*.safetensors")}
    assert len(files) > 1
    for name, size in files.items():
        (line,) = (line for line in shown.splitlines() if name in line)
        assert f"{size / 1000:.2f} kB" in line
    for part in ("976 B", "transformers", "memory", "allowed", "free", "workers"):
        assert part in shown
    assert "index.json" in shown


def test_a_dry_run_shows_what_is_renamed_and_what_stays(tmp_path: Path) -> None:
    tensors = qwen_tensors(prefix="thinker.model.") | qwen_tensors(prefix="talker.model.")
    src = write_checkpoint(tmp_path / "src", {"model.safetensors": tensors}, OMNI, index=False)
    shown = invoke("merge", src, tmp_path / "dst", "-n").stdout
    for words in ("mindspeed", "thinker.* -> *", "unchanged", "talker.model.layers.*.mlp."):
        assert words in shown


def test_a_dry_run_projects_the_verification(
    src: Path, dst: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the run does, which has the memory of both."""
    # what other tests in this process took before would hide both
    monkeypatch.setattr("streamconv.planning.limits.peak_bytes", lambda: 0)
    run = ("merge", src, dst, "--json", "-j", "8")
    plain, verified = (
        json.loads(invoke(*run, "-n", *more).stdout)["memory"] for more in ((), ("--verify",))
    )
    assert plain["projected_peak_bytes"] < verified["projected_peak_bytes"]


def test_a_dry_run_refuses_to_verify_a_part(src: Path, dst: Path) -> None:
    """With the words of the run."""
    run = ("merge", src, dst, "--part", "1/2", "--verify")
    refusals = set()
    for more in ((), ("-n",)):
        with pytest.raises(UsageError) as caught:
            invoke(*run, *more)
        refusals.add((caught.value.message, caught.value.hint))
    assert len(refusals) == 1


def test_a_dry_run_says_how_long_it_takes(src: Path, dst: Path) -> None:
    """At `--rate`, or at the limit of `--max-rate`."""
    for option in ("--rate", "--max-rate"):
        fields = json.loads(
            invoke("merge", src, dst, "--dry-run", "--json", option, "1kB/s").stdout
        )
        assert fields["rate_bytes_per_second"] == 1000
        assert fields["seconds_at_rate"] == pytest.approx(fields["read_bytes"] / 1000)
        assert fields["transfer_bytes"] == 0
    assert " at 1.00 kB/s" in invoke("merge", src, dst, "--dry-run", "--rate", "1kB/s").stdout
    assert process("merge", src, dst, "--dry-run", "--rate", "fast").returncode == 2


def test_a_dry_run_says_more_when_asked_to(src: Path, dst: Path) -> None:
    short = invoke("merge", src, dst, "-n", "--max-shard-size", "100B").stdout
    full = invoke("merge", src, dst, "-n", "--max-shard-size", "100B", "-v").stdout
    assert len(full.splitlines()) >= len(short.splitlines())
    assert "model.layers.0" in full
    assert "model.layers.1" in full


def test_a_dry_run_in_json_is_what_a_run_does(src: Path, dst: Path) -> None:
    words = ("merge", src, dst, "--max-shard-size", "700B", "--json")
    done = process(*words, "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    plan = json.loads(done.stdout)
    assert (plan["schema"], plan["kind"]) == (2, "plan")
    done = process(*words)
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(done.stdout)
    assert (result["schema"], result["kind"], result["path"]) == (2, "result", str(dst))
    files = {path.name: path.stat().st_size for path in dst.glob("*.safetensors")}
    for fields in (plan, result):
        assert {shard["name"]: shard["bytes"] for shard in fields["shards"]} == files
        assert fields["data_bytes"] == 976
        assert fields["tensors"] == len(read_checkpoint(dst))
    assert {step["name"]: step["bytes"] for step in plan["steps"]} == {
        name: len(data) for name, (_, _, data) in read_checkpoint(dst).items()
    }
    written = sum(path.stat().st_size for path in dst.iterdir())
    index_and_manifest = sum(path.stat().st_size for path in dst.glob("*.json"))
    assert written - index_and_manifest <= plan["write_bytes"] <= written
    assert plan["memory"]["projected_peak_bytes"] <= plan["memory"]["allowed_bytes"]


def test_a_failed_dry_run_in_json_exits_as_the_run(src: Path, dst: Path) -> None:
    dst.write_text("in the way")
    done = process("merge", src, dst, "--dry-run", "--json")
    assert done.returncode == OutputExists.exit_code
    assert json.loads(done.stdout)["kind"] == "plan"
    error = json.loads(done.stderr)
    assert (error["kind"], error["error"], error["exit_code"]) == ("error", "OutputExists", 6)


def test_json_has_nothing_on_stdout_when_it_fails(dst: Path) -> None:
    done = process("merge", dst / "nothing", dst, "--json")
    assert (done.returncode, done.stdout) == (BadCheckpoint.exit_code, "")


def test_first_and_last_lines_of_a_run(src: Path, dst: Path) -> None:
    """From what to what and how much; then the same, how it is loaded, and how to go back."""
    shown = invoke("merge", src, dst)
    opening = r"qwen3_moe, hub -> transformers, fused: 5.12 kB, 2 files to 1 shard, . workers?\n"
    assert re.fullmatch(opening, shown.stderr)
    made, amount, load, back = shown.stdout.splitlines()
    assert made == f"{dst}: qwen3_moe, hub -> transformers, fused"
    assert amount.startswith("5.12 kB in 1 shard, ")
    assert load == f"next: load it with transformers: AutoModel.from_pretrained('{dst}')"
    assert back == f"next: go back with `streamconv convert {dst} DIR --to hub`"
    again = invoke(*shlex.split(back.partition("`")[2].replace(" DIR ", f" {dst}-hub ")[11:-1]))
    assert read_checkpoint(Path(f"{dst}-hub")) == read_checkpoint(src)
    assert (
        f"next: go back with `streamconv convert {dst}-hub DIR --to transformers`" in again.stdout
    )
    quiet = invoke("merge", src, dst, "-q", "--overwrite")
    assert (quiet.stdout, quiet.stderr) == ("", "")


@pytest.mark.parametrize("verb", CONVERSIONS)
def test_quiet_says_nothing(verb: str, src: Path, dst: Path) -> None:
    assert invoke(*verb_with_target(verb, src, dst), "-q", "--dry-run").output == ""
    assert invoke(*verb_with_target(verb, src, dst), "--quiet").output == ""
    assert dst.is_dir()


def test_quiet_says_what_went_wrong(dst: Path) -> None:
    done = process("merge", dst / "nothing", dst, "-q")
    assert (done.returncode, done.stdout) == (BadCheckpoint.exit_code, "")
    assert "does not exist" in done.stderr


def test_a_name_that_the_output_cannot_encode(tmp_path: Path) -> None:
    """A pipe in a narrow encoding gets something else in its place, not an error."""
    tensors = qwen_tensors(prefix="\N{SNOWMAN}.")
    src = write_checkpoint(tmp_path / "src", {"model.safetensors": tensors})
    environment = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    for words in (("inspect", src), ("merge", src, tmp_path / "\N{SNOWMAN}")):
        done = process(*words, "--json", environment=environment)
        assert (done.returncode, done.stderr) == (0, "")


# The environment.


@pytest.mark.parametrize("verb", CONVERSIONS)
def test_options_from_the_environment(verb: str, src: Path, dst: Path) -> None:
    shown = invoke(
        *verb_with_target(verb, src, dst),
        STREAMCONV_DRY_RUN="1",
        STREAMCONV_JSON="1",
        STREAMCONV_MAX_SHARD_SIZE="400",
        STREAMCONV_MAX_MEMORY="3GB",
        STREAMCONV_JOBS="1",
        STREAMCONV_LAYERS="0:1",
        STREAMCONV_FROM="per-expert",
    )
    plan = json.loads(shown.stdout)
    assert len(plan["shards"]) > 1
    assert plan["memory"]["jobs"] == 1
    assert plan["memory"]["allowed_bytes"] == 3 * 10**9
    assert plan["target"]["layers"] == "0:1"
    assert not dst.exists()


def test_more_options_from_the_environment(src: Path, dst: Path) -> None:
    assert isinstance(
        attempt("merge", src, dst, STREAMCONV_MAX_MEMORY="1MB").exception, PlanRefused
    )
    assert isinstance(attempt("inspect", src, STREAMCONV_FROM="stacked").exception, PlanRefused)
    assert json.loads(invoke("inspect", src, STREAMCONV_JSON="1").stdout)["kind"] == "inspection"
    assert invoke("merge", src, dst, STREAMCONV_QUIET="1", STREAMCONV_TO="stacked").output == ""
    assert "model.layers.0.mlp.experts.gate_proj" in read_checkpoint(dst)
    assert isinstance(attempt("convert", src, dst, STREAMCONV_TO="fused").exception, OutputExists)
    invoke("convert", src, dst, STREAMCONV_TO="fused", STREAMCONV_OVERWRITE="1")
    assert "model.layers.0.mlp.experts.gate_up_proj" in read_checkpoint(dst)


def test_the_command_line_counts_more_than_the_environment(src: Path, dst: Path) -> None:
    words = ("merge", src, dst, "-n", "--json", "--max-shard-size", "4GB", "--to", "fused")
    environment = {"STREAMCONV_MAX_SHARD_SIZE": "400", "STREAMCONV_TO": "stacked"}
    plan = json.loads(invoke(*words, **environment).stdout)
    assert len(plan["shards"]) == 1
    assert plan["target"]["asked"] == "fused"


@pytest.mark.parametrize("verb", ["inspect", "split", "merge -n", "verify"])
def test_prefixes_without_a_dcp_are_wrong_usage(src: Path, dst: Path, verb: str) -> None:
    """They would do nothing."""
    places = {"inspect": [src], "verify": [src, src]}.get(verb, [src, dst])
    done = process(*verb.split(), *places, "--hf-prefix", "model.", "--dcp-prefix", "")
    assert (done.returncode, done.stdout) == (2, "")
    assert "cannot use --hf-prefix and --dcp-prefix: no DCP is read or written" in done.stderr
    assert not dst.exists()


def test_a_variable_that_makes_no_sense_is_wrong_usage(src: Path, dst: Path) -> None:
    done = process("merge", src, dst, environment={"STREAMCONV_JOBS": "many"})
    assert done.returncode == 2
    assert "--jobs" in done.stderr
    assert not dst.exists()


# Progress.


def on_a_terminal(*words: object, **environment: str) -> str:
    """What a run writes to a terminal that is its stderr."""
    ours, theirs = pty.openpty()
    environment = {"TERM": "xterm", **environment}
    done = process(*words, environment=environment, stderr=theirs)
    os.close(theirs)
    shown = b""
    # Linux ends the reading of a terminal that nobody holds any more with an error.
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert done.returncode == 0, shown
    return shown.decode()


def test_progress_is_shown_on_a_terminal(src: Path, dst: Path) -> None:
    assert "kB" in on_a_terminal("merge", src, dst)


def test_no_progress_is_shown_if_none_is_wanted(src: Path, dst: Path) -> None:
    assert on_a_terminal("merge", src, dst.with_name("a"), "--no-progress") == ""
    assert on_a_terminal("merge", src, dst.with_name("b"), "--quiet") == ""
    assert on_a_terminal("merge", src, dst.with_name("c"), STREAMCONV_NO_PROGRESS="1") == ""


# The files that a run leaves.


def test_overwrite_keeps_nothing_of_the_old(src: Path, dst: Path, tmp_path: Path) -> None:
    fresh = tmp_path / "fresh"
    invoke("merge", src, fresh)
    invoke("merge", src, dst, "--max-shard-size", "300B")
    assert len(list(dst.glob("*.safetensors"))) > 1
    (dst / "original").mkdir()
    (dst / "original" / "config.json").write_text("old")
    invoke("merge", src, dst, "--overwrite")
    assert tree(dst) == tree(fresh)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dst", "fresh", "src"]


def test_overwrite_does_not_replace_what_is_no_checkpoint(src: Path, tmp_path: Path) -> None:
    """A project with sources; also in the dry run, which says what goes if it is one."""
    project = tmp_path / "project"
    for name in ("src/main.py", ".git/HEAD", "README.md"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("mine")
    before = tree(tmp_path)
    for more in ([], ["--dry-run"], ["--resume"]):
        words = ["merge", str(src), str(project), "--overwrite", *more]
        done = CliRunner().invoke(cli, words, standalone_mode=False)
        assert isinstance(done.exception, OutputExists)
        for name in ("src/", ".git/", "README.md"):
            assert f"{project}/{name} (unknown)" in done.exception.message
        assert tree(tmp_path) == before


def test_the_dry_run_lists_what_is_removed(src: Path, dst: Path) -> None:
    """The files of the former target and of an unfinished run, with their sizes."""
    old = old_checkpoint(dst)
    partial = dst.with_name("dst.streamconv-partial")
    partial.mkdir()
    (partial / "model.safetensors").write_text("half")
    sizes = {str(dst / name): len(content) for name, content in old.items()}
    sizes[str(partial / "model.safetensors")] = 4
    document = json.loads(invoke("merge", src, dst, "--overwrite", "-n", "--json").stdout)
    assert {each["path"]: each["bytes"] for each in document["removes"]} == sizes
    shown = "".join(invoke("merge", src, dst, "--overwrite", "-n").stdout.split())
    for path in sizes:
        assert "".join(path.split()) in shown
    assert tree(dst) == old


def test_overwrite_starts_over_after_a_run_has_died(src: Path, dst: Path, tmp_path: Path) -> None:
    partial = dst.with_name("dst.streamconv-partial")
    partial.mkdir()
    (partial / "model.safetensors").write_text("half of it")
    invoke("merge", src, dst, "--overwrite")
    assert read_checkpoint(dst).keys() & qwen_tensors().keys()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dst", "src"]


def test_an_empty_target_is_no_target(src: Path, dst: Path) -> None:
    dst.mkdir()
    invoke("merge", src, dst)
    assert (dst / "model.safetensors").is_file()


def test_a_target_below_folders_that_are_not_there(src: Path, tmp_path: Path) -> None:
    invoke("merge", src, tmp_path / "a" / "b" / "dst")
    assert (tmp_path / "a" / "b" / "dst" / "model.safetensors").is_file()


def test_relative_places_and_trailing_slashes(src: Path, dst: Path) -> None:
    done = process("merge", "src/", "./x/../dst/", "-q", cwd=src.parent)
    assert (done.returncode, done.stderr) == (0, "")
    assert (dst / "model.safetensors").is_file()
    assert sorted(path.name for path in src.parent.iterdir()) == ["dst", "src"]


def test_a_target_whose_name_is_not_utf8(src: Path, tmp_path: Path) -> None:
    place = tmp_path / os.fsdecode(b"caf\xe9")
    done = process("merge", src, place, errors="surrogateescape")
    assert (done.returncode, "streamconv: " in done.stderr) == (0, False)
    assert (place / "model.safetensors").is_file()


WHOLE = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from streamconv.cli import main; main()"
)
"""A process that listens to SIGINT also where the tests are run in the background."""


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Path]:
    """Three gigabytes of holes; whatever is written from it is removed."""
    folder = write_sparse(tmp_path / "large", layers=2, experts=8, hidden=4096, intermediate=8192)
    yield folder
    for path in tmp_path.rglob("*.safetensors"):
        path.unlink()


@pytest.mark.parametrize(("number", "overwrite"), [(signal.SIGINT, False), (signal.SIGTERM, True)])
def test_a_signal_leaves_no_files(
    large: Path, dst: Path, tmp_path: Path, number: signal.Signals, overwrite: bool
) -> None:
    sizes = {path.name: path.stat() for path in large.iterdir()}
    if overwrite:
        old = old_checkpoint(dst)
    words = ["convert", str(large), str(dst), "--to", "fused-transposed"]
    running = subprocess.Popen(
        [sys.executable, "-c", WHOLE, *words, *(["--overwrite"] if overwrite else [])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    partial = dst.with_name("dst.streamconv-partial")
    try:
        begin = time.monotonic()
        while not any(partial.glob("*.safetensors")):
            assert running.poll() is None, running.communicate()
            assert time.monotonic() - begin < 30
            time.sleep(0.005)
        running.send_signal(number)
        out, err = running.communicate(timeout=30)
    finally:
        if running.poll() is None:
            running.kill()
            running.communicate()
    assert running.returncode == 128 + number, err
    assert out == ""
    assert "\nstreamconv: " in err
    assert "Traceback" not in err
    assert not partial.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dst", "large"][1 - overwrite :]
    if overwrite:
        assert tree(dst) == old
    now = {path.name: path.stat() for path in large.iterdir()}
    assert {name: (s.st_size, s.st_mtime_ns) for name, s in now.items()} == {
        name: (s.st_size, s.st_mtime_ns) for name, s in sizes.items()
    }


IMPATIENT = """
import os, signal, sys, time
from streamconv.cli import main
from streamconv.sinks.open_folder import OpenFolder

signal.signal(signal.SIGINT, signal.default_int_handler)
number, pause = int(sys.argv.pop(1)), float(sys.argv.pop(1))
abort = OpenFolder.abort

def send(*args, **options):
    os.kill(os.getpid(), number)
    time.sleep(0.01)

def abort_impatiently(*args, **options):
    time.sleep(pause)
    send()
    abort(*args, **options)

OpenFolder.complete = send
OpenFolder.abort = abort_impatiently
main()
"""
"""A process that gets a signal just before the end, and another one while it tidies up."""


@pytest.mark.parametrize("pause", [0.0, 0.6])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal(
    src: Path, dst: Path, tmp_path: Path, number: signal.Signals, pause: float
) -> None:
    """Right after the first one it counts as the same; later it ends the process at once."""
    words = [str(int(number)), str(pause), "merge", str(src), str(dst)]
    done = subprocess.run(
        [sys.executable, "-c", IMPATIENT, *words],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 128 + number, done.stderr
    assert "Traceback" not in done.stderr
    assert ("--resume" in done.stderr) == (pause == 0)
    lock = [] if pause == 0 else ["dst.streamconv-lock-1"]
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [*lock, "dst.streamconv-partial", "src"]
    assert "1 of 1 shards are complete" in attempt("merge", src, dst, "--resume").stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dst", "src"]


# Streams that are closed or full, and what nobody foresaw.


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["inspect", "src"],
        ["inspect", "src", "--json"],
        ["merge", "src", "dst", "-n"],
        ["merge", "src", "dst", "-n", "--json"],
        ["merge", "src", "dst"],
        ["merge", "src", "dst", "--json"],
    ],
)
def test_a_pipe_that_nobody_reads(words: list[str], src: Path, dst: Path) -> None:
    """As with `| head -1` after its first line. A conversion completes nevertheless."""
    ours, theirs = os.pipe()
    os.close(ours)
    done = process(*words, stdout=theirs, cwd=src.parent)
    os.close(theirs)
    assert "streamconv: " not in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 8)
    assert not dst.with_name("dst.streamconv-partial").exists()
    if words[0] == "merge" and "-n" not in words:
        assert len(read_checkpoint(dst)) == 10


def test_head_reads_one_line(tmp_path: Path) -> None:
    """With more output than a pipe holds."""
    tensors = qwen_tensors(layers=100, experts=2, hidden=1, intermediate=1)
    src = write_checkpoint(tmp_path / "src", {"model.safetensors": tensors})
    done = subprocess.run(
        [
            "sh",
            "-c",
            f"{sys.executable} -m streamconv merge {src} {tmp_path}/dst -n --json "
            "--max-shard-size 10B | head -1",
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("{\n", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("words", [["inspect", "src", "--json"], ["merge", "src", "dst"]])
def test_standard_output_on_a_full_disk(words: list[str], src: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = process(*words, stdout=full, cwd=src.parent)
    assert done.returncode not in (0, 120)
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_debugging_shows_where(dst: Path) -> None:
    """And the exit code still says what went wrong."""
    words = ("merge", dst / "nothing", dst)
    done = process(*words, environment={"STREAMCONV_DEBUG": "1"})
    assert "Traceback (most recent call last)" in done.stderr
    assert "does not exist" in done.stderr
    assert done.returncode == BadCheckpoint.exit_code
    assert "Traceback" not in process(*words).stderr


def test_an_unexpected_error_is_1_without_a_traceback(
    src: Path, dst: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise ZeroDivisionError("never heard of")

    monkeypatch.setattr(streamconv, "merge", fail)
    with pytest.raises(SystemExit) as caught:
        main(["merge", str(src), str(dst)])
    assert caught.value.code == 1
    said = capsys.readouterr().err
    assert "ZeroDivisionError: never heard of" in said
    assert "STREAMCONV_DEBUG=1" in said
    assert "Traceback" not in said
