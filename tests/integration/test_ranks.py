"""Several processes at one conversion, real ones, some of which die."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import reference
from click.testing import CliRunner
from dcp_folders import stock
from folders import old_checkpoint, output, qwen_tensors, tree, two_shards, write_checkpoint
from hub_server import Hub, serving
from plain_layers import plain_tensors, write
from torchrun import torchrun

import streamconv
from streamconv.cli import cli
from streamconv.errors import (
    IOFailed,
    OutputExists,
    PlanRefused,
    UsageError,
    VerifyFailed,
)

SIZE = "4kB"
"""Of output shards: some twenty of them."""

FAULTY = """
import errno, os, signal, sys, time
rank, restart = os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]
from streamconv.sinks.shard_files import OpenShard
finish, how, finished = OpenShard.finish, os.environ["FAULT"], []
def faulty(self):
    if how == "early":
        time.sleep(0 if rank == "1" else 2)
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    if rank == "1" and restart == "0" and len(finished) == 2:
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "error":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if how == "mistake":
            with open(f"/proc/self/fd/{self._fd}", "r+b") as file:
                file.seek(-1, os.SEEK_END)
                file.write(b"?")
    time.sleep(0.05)
    finished.append(self)
    finish(self)
OpenShard.finish = faulty
from streamconv.cli import main
main()
"""
"""The command line, in which all ranks fail at their first shard, rank 1 before the others; or
rank 1 fails at its third one, or makes a mistake."""

SEVERAL = """
import json, os, pathlib, sys
from streamconv.cli import main
from streamconv.sinks.shard_files import OpenShard
finish, finished = OpenShard.finish, []
def counted(self):
    finished.append(self)
    finish(self)
OpenShard.finish = counted
run, made = os.environ["TORCHELASTIC_RUN_ID"], []
for number, words in enumerate(json.loads(sys.argv[1])):
    os.environ["TORCHELASTIC_RUN_ID"] = f"{run} {number}"
    finished.clear()
    try:
        main(words)
    except SystemExit as end:
        if end.code:
            raise
    made.append(len(finished))
pathlib.Path(__file__).with_name(f"rank-{os.environ['RANK']}.json").write_text(json.dumps(made))
"""
"""Several command lines, one after the other, each as a run of torchrun of its own, and how many
shards of each a rank has made."""

APART = """
import os, pathlib, sys
from streamconv.execution import ranks
ranks.LOCK_SECONDS = 1.0
host = pathlib.Path(__file__).with_name(f"host-{os.environ['RANK']}")
host.mkdir(exist_ok=True)
os.chdir(host)
from streamconv.cli import main
main()
"""
"""The command line, where a relative path leads to another folder for each rank."""

MEASURED = """
import json, os, pathlib, sys
import streamconv
from streamconv.execution.events import PieceWritten
from streamconv.sources.wrappers.rate_limit import Throttle
made, read, rates, take = [], [], set(), Throttle.take
def hear(event):
    if isinstance(event, PieceWritten):
        made.append(event.piece.nbytes)
def taken(self, nbytes):
    rates.add(self._rate)
    read.append(nbytes)
    take(self, nbytes)
Throttle.take = taken
src, dst = sys.argv[1:]
result = streamconv.convert(
    src, dst, to="fused-transposed", format="dcp", max_shard_size="10MB", max_rate="10GB/s",
    overwrite=True, on_event=hear,
)
plan = result.plan
facts = {"made": sum(made), "read": sum(read), "to_read": plan.read_bytes, "rates": list(rates)}
facts |= {"peak": result.peak_memory, "projected": plan.memory.peak}
pathlib.Path(dst).with_name(f"rank-{os.environ['RANK']}.json").write_text(json.dumps(facts))
"""
"""A DCP over what is there, and what each rank has made, read and taken, in bytes."""


@pytest.fixture(scope="module")
def src(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of four layers."""
    tensors = qwen_tensors(layers=4, experts=5, hidden=16, intermediate=12)
    return write_checkpoint(
        tmp_path_factory.mktemp("ranks") / "source",
        two_shards(tensors),
        {"model_type": "qwen3_moe"},
    )


@pytest.fixture(scope="module")
def wanted(src: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What one process makes of it."""
    place = tmp_path_factory.mktemp("wanted") / "out"
    streamconv.convert(src, place, to="fused-transposed", max_shard_size=SIZE)
    return tree(place)


def command(src: Path | str, dst: Path, *more: str) -> list[str]:
    words = ["convert", str(src), str(dst), "--to", "fused-transposed", "--max-shard-size", SIZE]
    return [*words, "-j", "1", *more]


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    script = tmp_path / "faulty.py"
    script.write_text(FAULTY)
    return script


def leftovers(dst: Path) -> list[str]:
    """List the files next to the output."""
    return sorted(path.name for path in dst.parent.iterdir() if path.name.startswith(dst.name))


# --- torchrun ----------------------------------------------------------------------------------


def test_ranks_make_what_one_process_makes(src: Path, tmp_path: Path) -> None:
    """The same tree, whatever is asked; every rank does something; one says so."""
    script = tmp_path / "several.py"
    script.write_text(SEVERAL)
    plain = write(tmp_path / "plain", plain_tensors(), torch_dtype="bfloat16")
    asked = {
        "moved": ["convert", str(src), "--to", "fused-transposed"],
        "cast": ["convert", str(src), "--to", "fused-transposed", "--dtype", "fp16"],
        "config": ["convert", str(plain), "--dtype", "fp32", "--layers", "0:1"],
        "quantized": ["convert", str(plain), "--to", "per-expert", "--quantize", "mxfp4"],
    }
    size = ("-j", "1", "--max-shard-size", SIZE)
    done = torchrun(
        3,
        [json.dumps([[*words, *size, str(tmp_path / name)] for name, words in asked.items()])],
        script=script,
    )
    assert done.returncode == 0, done.stderr
    made = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(3)]
    for (name, words), shards in zip(asked.items(), zip(*made, strict=True), strict=True):
        assert min(shards) > 0, name
        assert sum(shards) == len(list((tmp_path / name).glob("*.safetensors"))) > 2, name
        alone = tmp_path / "alone" / name
        done_alone = CliRunner().invoke(cli, [*words, *size, str(alone)], standalone_mode=False)
        assert done_alone.exception is None
        assert tree(tmp_path / name) == tree(alone), name
        assert done.stdout.count(f"{tmp_path / name}: ") == 1
        assert leftovers(tmp_path / name) == [name]
    assert '"F16"' in (tmp_path / "cast" / "streamconv.json").read_text()
    assert "float32" in (tmp_path / "config" / "config.json").read_text()
    assert "mxfp4" in (tmp_path / "quantized" / "config.json").read_text()


def test_a_rank_that_dies_ends_the_run_by_its_name(
    src: Path, wanted: dict[str, object], tmp_path: Path, faulty: Path
) -> None:
    """On every rank, soon; then one process goes on to the same bytes."""
    dst = tmp_path / "out"
    begin = time.monotonic()
    done = torchrun(2, command(src, dst), fault="error", script=faulty)
    assert time.monotonic() - begin < 60
    assert_failed(done, dst, 1, "Input/output error")
    streamconv.convert(src, dst, to="fused-transposed", max_shard_size=SIZE, resume=True)
    assert tree(dst) == wanted
    assert leftovers(dst) == ["out"]


def assert_failed(
    done: "subprocess.CompletedProcess[str]", dst: Path, others: int, reason: str
) -> None:
    """All other ranks say that rank 1 has failed, and why; what was written is left."""
    assert done.returncode != 0
    said = re.findall(rf"streamconv: rank 1 \(process \d+ on .*\) failed: .*{reason}", done.stderr)
    assert len(said) == others, done.stderr
    assert not dst.exists()
    assert len(list(dst.with_name("out.streamconv-partial").glob("*.safetensors"))) >= 2


def test_ranks_that_fail_before_any_shard_leave_nothing(
    src: Path, wanted: dict[str, object], tmp_path: Path, faulty: Path
) -> None:
    """So that a plain run can follow."""
    dst = tmp_path / "out"
    done = torchrun(2, command(src, dst), fault="early", script=faulty)
    assert done.returncode != 0
    assert "Input/output error" in done.stderr
    assert leftovers(dst) == []
    streamconv.convert(src, dst, to="fused-transposed", max_shard_size=SIZE)
    assert tree(dst) == wanted


def test_a_result_that_is_not_verified_fails_every_rank(
    src: Path, tmp_path: Path, faulty: Path
) -> None:
    """Rank 0 finds rank 1's mistake before the result takes its place, and says so to all."""
    dst = tmp_path / "out"
    done = torchrun(2, command(src, dst, "--verify"), fault="mistake", script=faulty)
    assert done.returncode != 0
    found = "is not the conversion of .*: 1 difference, the first: "
    assert len(re.findall(rf"streamconv: {re.escape(str(tmp_path))}.* {found}", done.stderr)) == 1
    said = re.findall(rf"streamconv: rank 0 \(process \d+ on .*\) failed: .* {found}", done.stderr)
    assert len(said) == 1, done.stderr
    assert not dst.exists()


def test_torchrun_starts_the_ranks_again(
    src: Path, wanted: dict[str, object], tmp_path: Path, faulty: Path
) -> None:
    """They resume without `--resume`."""
    dst = tmp_path / "out"
    done = torchrun(2, command(src, dst), fault="kill", script=faulty, restarts=1)
    assert done.returncode == 0, done.stderr
    assert tree(dst) == wanted


def test_a_rank_that_is_killed_while_a_repository_is_read(
    src: Path,
    tmp_path: Path,
    faulty: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It ends the run by its name; another number of ranks goes on with the same commit."""
    dst = tmp_path / "out"
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    with serving(Hub({"org/tiny": src})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        words = command("hf://org/tiny", dst)
        begin = time.monotonic()
        killed = torchrun(3, words, fault="kill", script=faulty)
        assert time.monotonic() - begin < 60
        assert_failed(killed, dst, 2, "its connection is broken")
        hub.head = "f" * 40
        again = torchrun(2, [*words, "--resume"])
    assert again.returncode == 0, again.stderr
    assert "shards are complete" in again.stderr
    alone = tmp_path / "alone"
    streamconv.convert(src, alone, to="fused-transposed", max_shard_size=SIZE)
    assert output(dst) == output(alone)
    assert leftovers(dst) == ["out"]


@pytest.mark.parametrize("left", ["nothing", "finished shards", "a lock"])
def test_hosts_that_share_no_target(left: str, src: Path, tmp_path: Path) -> None:
    """Found before the first shard, in one line with both ranks; what was there stays."""
    script = tmp_path / "apart.py"
    script.write_text(APART)
    more = ["--resume"] if left == "finished shards" else []
    if left == "finished shards":
        for host in ("host-0", "host-1"):
            (tmp_path / host).mkdir()
            streamconv.convert(
                src, tmp_path / host / "out", to="fused-transposed", max_shard_size=SIZE, part="2/4"
            )
    if left == "a lock":  # of a run that died on the other host
        (tmp_path / "host-1").mkdir()
        (tmp_path / "host-1" / "out.streamconv-lock-1").write_text('{"number": 1}')
    before = tree(tmp_path / "host-1") if (tmp_path / "host-1").exists() else {}
    ended = torchrun(2, command(src, Path("out"), *more), script=script)
    assert ended.returncode != 0
    assert re.search(
        r"cannot share the conversion: rank 1 \(process \d+ on \S+\) does not see what rank 0 "
        r"\(process \d+ on \S+\) has made next to the target",
        ended.stderr,
    ), ended.stderr
    assert "name a target on a file system that all hosts share" in ended.stderr
    assert tree(tmp_path / "host-1") == before
    if left != "finished shards":
        assert tree(tmp_path / "host-0") == {}


@pytest.fixture(scope="module")
def replaced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a DCP of some MB that two ranks have put in the place of something else."""
    folder = tmp_path_factory.mktemp("replaced")
    tensors = qwen_tensors(layers=2, experts=6, hidden=1024, intermediate=512)
    write_checkpoint(folder / "src", two_shards(tensors), {"model_type": "qwen3_moe"})
    old_checkpoint(folder / "out")
    (folder / "measured.py").write_text(MEASURED)
    words = [str(folder / "src"), str(folder / "out")]
    done = torchrun(2, words, script=folder / "measured.py")
    assert done.returncode == 0, done.stderr
    return folder


def facts(replaced: Path, rank: int) -> dict[str, Any]:
    """What that rank has said of itself."""
    found: dict[str, Any] = json.loads((replaced / f"rank-{rank}.json").read_text())
    return found


def test_ranks_write_a_dcp(replaced: Path) -> None:
    """Each some files of it; torch's own reader finds what one process writes as safetensors."""
    dst = replaced / "out"
    streamconv.convert(replaced / "src", replaced / "safetensors", to="fused-transposed")
    wanted = reference.read(replaced / "safetensors")
    assert reference.same_bytes(stock(dst), wanted) == []
    assert leftovers(dst) == ["out"]
    assert not (dst / "README.md").exists()


def test_a_dry_run_by_ranks(replaced: Path) -> None:
    """It shows the plan once, with the memory of a rank, torch included."""
    launched = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    shown = []
    for rank in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-m", "streamconv", "merge", "src", "new", "-n", "--json"],
            cwd=replaced,
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, **launched, "RANK": rank},
        )
        shown.append(done.stdout)
    assert shown[1] == ""
    projected = json.loads(shown[0])["memory"]["projected_peak_bytes"]
    assert abs(projected - facts(replaced, 0)["projected"]) < 25e6


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_stays_below_the_projection(replaced: Path, rank: int) -> None:
    """Its own, torch included, which is most of it; and the projection is no wild guess."""
    found = facts(replaced, rank)
    assert found["made"] > 5e6
    assert found["peak"] <= found["projected"]
    assert found["projected"] - found["peak"] < 40e6


def test_ranks_share_the_rate_that_is_allowed(replaced: Path) -> None:
    """Each reads its own at half of it, so that together they take the time that the plan says."""
    each = [facts(replaced, rank) for rank in (0, 1)]
    assert [found["rates"] for found in each] == [[5 * 10**9], [5 * 10**9]]
    read = sum(found["read"] for found in each)
    assert read == each[0]["to_read"]
    assert max(found["read"] for found in each) < 0.7 * read


HOST = """
import os, signal, sys
from streamconv.sinks.shard_files import OpenShard
finish, finished = OpenShard.finish, []
def faulty(self):
    if os.environ["FAULT"] and len(finished) == 2:
        for pid in (os.getppid(), os.getpid()):
            os.kill(pid, signal.SIGKILL)
    finished.append(self)
    finish(self)
OpenShard.finish = faulty
from streamconv.cli import main
main()
"""
"""The command line, on a host that goes away with its launcher at its third shard."""


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (0, r"cannot reach the other ranks: the store .* is lost: .*\n +check if"),
        (1, r"rank \d \(process \d+ on .*\) failed: its connection is broken, and it has"),
    ],
    ids=["that with the store", "the other"],
)
def test_a_host_that_goes_away_ends_the_run(
    src: Path,
    wanted: dict[str, object],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    gone: int,
    said: str,
) -> None:
    """On the other of two, each with a launcher; then one process goes on to the same bytes."""
    dst = tmp_path / "out"
    (tmp_path / "host.py").write_text(HOST)
    # bound, the system gives its port to nobody else; the store of torch takes it nevertheless
    held = socket.socket()
    request.addfinalizer(held.close)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    endpoint = f"localhost:{held.getsockname()[1]}"
    launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--rdzv-id", "two"]
    launch += ["--rdzv-backend", "c10d", "--rdzv-endpoint", endpoint, str(tmp_path / "host.py")]
    hosts = []
    for number in range(2):
        hosts.append(
            subprocess.Popen(
                [*launch, *command(src, dst)],
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "FAULT": "gone" * (number == gone), "OMP_NUM_THREADS": "1"},
            )
        )
        # whoever begins keeps the store
        while number == 0 and not reachable(endpoint):
            time.sleep(0.05)
    errors = [host.communicate(timeout=60)[1] for host in hosts]
    assert hosts[gone].returncode == -signal.SIGKILL
    assert hosts[1 - gone].returncode == 1
    assert re.search(rf"streamconv: {said}", errors[1 - gone]), errors[1 - gone]
    assert not dst.exists()
    streamconv.convert(src, dst, to="fused-transposed", max_shard_size=SIZE, resume=True)
    assert tree(dst) == wanted
    assert leftovers(dst) == ["out"]


def reachable(endpoint: str) -> bool:
    host, _, port = endpoint.partition(":")
    with suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
        return True
    return False


LEFT_ALONE = """
import os, pathlib, signal, sys, time
if os.environ["RANK"] == "0":
    os.kill(os.getppid(), signal.SIGKILL)
time.sleep(1)
from streamconv.execution import ranks
ranks.STORE_SECONDS = 3.0
from streamconv.cli import main
try:
    main()
except SystemExit as end:
    pathlib.Path(f"code-{os.environ['RANK']}").write_text(str(end.code))
"""
"""The command line, whose launcher is killed before the first rank asks for its store."""


def test_a_launcher_that_is_gone_before_ranks_meet(src: Path, tmp_path: Path) -> None:
    """Every rank ends by itself, soon, in one line."""
    (tmp_path / "alone.py").write_text(LEFT_ALONE)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launch += ["--nproc-per-node", "2", str(tmp_path / "alone.py")]
    begin = time.monotonic()
    done = subprocess.run(
        [*launch, *command(src, tmp_path / "out")],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=120,
    )
    assert time.monotonic() - begin < 60
    assert [(tmp_path / f"code-{rank}").read_text() for rank in range(2)] == ["8", "8"]
    assert "Traceback" not in done.stderr
    assert len(re.findall("streamconv: cannot reach the other ranks: .*store", done.stderr)) == 2
    assert leftovers(tmp_path / "out") == []


NO_STORE = """
from streamconv.cli import main
from streamconv.execution import ranks
ranks.STORE_SECONDS = ranks.STORE_SPARE_SECONDS = 1.0
main()
"""


def test_a_server_that_is_no_store(src: Path, tmp_path: Path) -> None:
    """Another program has the port, accepts connections and says nothing: torch waits for ever."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        group = {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "2"}
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.getsockname()[1])}
        done = subprocess.run(
            [sys.executable, "-c", NO_STORE, "merge", str(src), str(tmp_path / "out")],
            env={**os.environ, **group, **place},
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 8, done.stderr
    assert re.search(
        "streamconv: cannot reach the other ranks: .*no answer within 2 s", done.stderr
    )
    assert leftovers(tmp_path / "out") == []


# --- parts without a launcher ------------------------------------------------------------------


def convert_part(src: Path, dst: Path, part: str) -> streamconv.Result:
    return streamconv.convert(src, dst, to="fused-transposed", max_shard_size=SIZE, part=part)


def test_parts_are_finished(src: Path, wanted: dict[str, object], tmp_path: Path) -> None:
    """One after the other, in any order, one of them twice; closed from somewhere else."""
    dst = tmp_path / "out"
    for part in ("2/3", "1/3", "2/3"):
        result = convert_part(src, dst, part)
        assert not result.closed
    with pytest.raises(OutputExists, match="shards are not finished"):
        streamconv.finish(dst)
    assert not dst.exists()
    convert_part(src, dst, "3/3")
    assert streamconv.finish(dst).closed
    assert tree(dst) == wanted
    assert leftovers(dst) == ["out"]
    with pytest.raises(OutputExists, match="finished already"):
        streamconv.finish(dst)
    with pytest.raises(IOFailed, match="there is no unfinished conversion"):
        streamconv.finish(tmp_path / "never")


def test_parts_at_the_same_time(src: Path, wanted: dict[str, object], tmp_path: Path) -> None:
    """As separate processes, from a folder of their own, on relative paths."""
    dst = tmp_path / "out"
    words = command(Path(os.path.relpath(src, tmp_path)), Path("out"))
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "streamconv", *words, "--part", f"{k}/4"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for k in range(1, 5)
    ]
    for k, process in enumerate(running, start=1):
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert f"part {k} of 4 is complete" in out
    done = subprocess.run(
        [sys.executable, "-m", "streamconv", "finish", str(dst)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert str(dst) in done.stdout
    assert tree(dst) == wanted


def test_a_part_is_planned_while_others_exist(src: Path, tmp_path: Path) -> None:
    """A dry run ends as the part would: with what others have made there."""
    dst = tmp_path / "out"
    convert_part(src, dst, "1/2")
    planned = [sys.executable, "-m", "streamconv", *command(src, dst, "-n", "--part", "2/2")]
    done = subprocess.run(planned, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([*planned, "--part", "1/1"], capture_output=True, text=True, check=False)
    assert done.returncode == OutputExists.exit_code, done.stderr


def test_parts_are_verified_together(src: Path, tmp_path: Path) -> None:
    """When they are closed; none by itself, and nothing takes its place that is not verified."""
    dst = tmp_path / "out"
    with pytest.raises(UsageError, match="cannot verify a part") as refused:
        streamconv.merge(src, dst, part="1/2", verify=True)
    assert "--verify" in refused.value.hint
    for part in ("1/2", "2/2"):
        result = convert_part(src, dst, part)
    shard = dst.with_name("out.streamconv-partial") / result.plan.shards[0].name
    sound = shard.read_bytes()
    shard.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    closing = [sys.executable, "-m", "streamconv", "finish", str(dst), "--verify"]
    done = subprocess.run(closing, capture_output=True, text=True, check=False)
    assert done.returncode == VerifyFailed.exit_code, done.stderr
    assert not dst.exists()
    shard.write_bytes(sound)
    done = subprocess.run(closing, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert streamconv.verify(src, dst).ok
    assert leftovers(dst) == ["out"]


def test_parts_of_a_dcp(src: Path, tmp_path: Path) -> None:
    """They are finished and verified like others."""
    streamconv.merge(src, tmp_path / "whole", format="dcp", max_shard_size=SIZE)
    for part in ("1/2", "2/2"):
        streamconv.merge(src, tmp_path / "out", format="dcp", max_shard_size=SIZE, part=part)
    closed = streamconv.finish(tmp_path / "out", verify=True)
    assert closed.verification is not None
    assert closed.verification.ok
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_other_parts_are_refused(src: Path, tmp_path: Path) -> None:
    """Those of another conversion, with both facts."""
    dst = tmp_path / "out"
    convert_part(src, dst, "1/2")
    for overwrite in (False, True):
        with pytest.raises(OutputExists, match=r"shard size: 4000 there, 9000 here") as refused:
            streamconv.convert(
                src,
                dst,
                to="fused-transposed",
                max_shard_size="9kB",
                part="2/2",
                overwrite=overwrite,
            )
        assert "remove that folder" in refused.value.hint
        assert "--overwrite" not in refused.value.hint
    with pytest.raises(PlanRefused):
        streamconv.convert(src, dst, to="fused-transposed", part="2/2", layers="7:9")
