"""Sources over a network: the bytes of a folder, no more than planned, whatever fails."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from folders import output, qwen_tensors, tree, two_shards, write_checkpoint
from hub_server import COMMIT, Fault, Hub, taken_for_the_hub
from huggingface_hub import constants

import streamconv
from streamconv.errors import BadCheckpoint, IOFailed, PlanRefused, SourceChanged, UsageError
from streamconv.execution.events import Completed
from streamconv.sources.base import Read
from streamconv.sources.open import open_source
from streamconv.system.cancellation import CancelToken

REPO = "org/tiny-moe"
LOCATION = f"hf://{REPO}"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in two shards, of some hundred kilobytes, with other files."""
    folder = tmp_path_factory.mktemp("remote") / "checkpoint"
    shards = two_shards(qwen_tensors(experts=11, hidden=64, intermediate=48))
    write_checkpoint(folder, shards, {"model_type": "qwen3_moe", "num_experts": 11})
    (folder / "tokenizer.json").write_text("{}" * 5000)
    (folder / "vocab").mkdir()
    (folder / "vocab" / "merges.txt").write_text("a b\n" * 100)
    (folder / "empty.txt").touch()
    return folder


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that has the folder, used by huggingface_hub; no waiting between attempts."""
    with taken_for_the_hub(Hub({REPO: folder}), tmp_path, monkeypatch) as hub:
        yield hub


@pytest.fixture(scope="session")
def wanted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What the local folder is converted to."""
    target = tmp_path_factory.mktemp("wanted") / "out"
    streamconv.convert(folder, target, to="fused-transposed", max_shard_size="300kB")
    return output(target)


def convert(location: str, target: Path) -> dict[str, object]:
    streamconv.convert(location, target, to="fused-transposed", max_shard_size="300kB")
    return output(target)


def once(fault: Fault, *, method: str = "GET", part: str = ".safetensors", times: int = 1):  # type: ignore[no-untyped-def]
    """A fault that the first requests for a range of such files meet, each `times` times."""
    met: Counter[tuple[str, str | None]] = Counter()

    def happen(asked: str, path: str, span: str | None) -> Fault | None:
        if asked != method or part not in path or (method == "GET" and not span):
            return None
        met[path, span] += 1
        return fault if met[path, span] <= times else None

    return happen


# --- the same bytes ----------------------------------------------------------------------------


@pytest.mark.parametrize("redirect", [True, False])
def test_a_repository_becomes_what_its_files_become(
    hub: Hub, wanted: dict[str, object], tmp_path: Path, redirect: bool
) -> None:
    """Byte for byte, and the manifest too, except for the recorded commit."""
    hub.redirect = redirect
    assert convert(LOCATION, tmp_path / "out") == wanted
    manifest = json.loads((tmp_path / "out" / "streamconv.json").read_text())
    assert manifest["revision"] == COMMIT


def test_a_repository_is_cast_as_its_files_are(hub: Hub, folder: Path, tmp_path: Path) -> None:
    """While it is transferred; `verify` reads and casts it once more."""
    made = []
    for location in (LOCATION, str(folder)):
        target = tmp_path / str(len(made))
        streamconv.convert(location, target, to="fused-transposed", dtype="fp32", verify=True)
        made.append(output(target))
    assert made[0] == made[1]


def test_a_result_is_verified_against_its_repository(hub: Hub, tmp_path: Path) -> None:
    """In one go, and later."""
    dst = tmp_path / "out"
    result = streamconv.convert(LOCATION, dst, to="fused-transposed", verify=True)
    assert result.verification is not None
    assert result.verification.ok
    path = dst / "model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    assert streamconv.verify(LOCATION, dst).difference_count == 1


def test_no_more_is_transferred_than_planned(hub: Hub, folder: Path, tmp_path: Path) -> None:
    """At most two hundredths above the plan's bytes, listing and headers included."""
    plan = streamconv.plan(LOCATION, to="fused-transposed")
    headers = hub.sent
    assert headers < 0.1 * plan.transfer_bytes
    convert(LOCATION, tmp_path / "out")
    files = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert plan.transfer_bytes <= files
    assert hub.sent - 2 * headers <= 1.02 * plan.transfer_bytes


def test_a_plan_asks_for_headers_alone(hub: Hub, folder: Path) -> None:
    """No range reaches into the data of a shard."""
    streamconv.plan(LOCATION)
    asked = [entry for entry in hub.ranges() if entry[0].endswith(".safetensors")]
    assert len(asked) == 4
    for name, _, end in asked:
        assert end < 8 + int.from_bytes((folder / name).read_bytes()[:8], "little")


def test_the_commit_is_pinned(hub: Hub) -> None:
    """Every file is asked for at the commit that the branch was when it was opened."""
    source = open_source(f"{LOCATION}@main")
    assert source.checkpoint.revision == COMMIT
    info = next(iter(source.checkpoint.tensors.values()))
    source.read([Read(info, 0, memoryview(bytearray(info.nbytes)))])
    resolved = [path for _, path, _ in hub.requests if "/resolve/" in path]
    assert resolved
    assert all(f"/resolve/{COMMIT}/" in path for path in resolved)


def test_a_resumed_run_reads_the_commit_that_it_began_with(
    hub: Hub, folder: Path, tmp_path: Path
) -> None:
    """Even if the branch has moved to a commit without these files."""
    asked: streamconv.Options = {"max_shard_size": "140kB", "jobs": 1}
    streamconv.convert(folder, tmp_path / "wanted", to="fused", **asked)

    def second_layer(method: str, path: str, span: str | None) -> Fault | None:
        begin = int(span.removeprefix("bytes=").partition("-")[0]) if span else 0
        return Fault(500) if "model-00002" in path and begin > 50000 else None

    hub.fault = second_layer
    with pytest.raises(IOFailed) as failed:
        streamconv.convert(LOCATION, tmp_path / "out", to="fused", **asked)
    assert "--resume" in "".join(failed.value.__notes__)
    hub.fault = lambda method, path, span: None
    hub.head = "f" * 40
    streamconv.convert(LOCATION, tmp_path / "out", to="fused", resume=True, **asked)
    assert output(tmp_path / "out") == output(tmp_path / "wanted")
    assert [path.name for path in tmp_path.glob("out*")] == ["out"]


def test_parts_read_the_commit_that_the_first_began_with(
    hub: Hub, wanted: dict[str, object], tmp_path: Path
) -> None:
    """Even if the branch moves between them; the finishing process reads it too."""
    for number in (1, 2, 3):
        asked: streamconv.Options = {"max_shard_size": "300kB", "part": f"{number}/3"}
        streamconv.convert(LOCATION, tmp_path / "out", to="fused-transposed", **asked)
        hub.head = "f" * 40
    streamconv.finish(tmp_path / "out", verify=True)
    assert output(tmp_path / "out") == wanted


def test_a_result_is_verified_against_the_commit_that_it_was_made_from(
    hub: Hub, tmp_path: Path
) -> None:
    """Even if the branch moves once the result is complete."""

    def move_on(event: object) -> None:
        if isinstance(event, Completed):
            hub.head = "f" * 40

    result = streamconv.convert(
        LOCATION, tmp_path / "out", to="fused-transposed", verify=True, on_event=move_on
    )
    assert result.verification is not None
    assert not result.verification.differences


def test_adjacent_tensors_are_read_at_once(hub: Hub) -> None:
    """One request for adjacent tensors, whatever the order of the batch."""
    source = open_source(LOCATION)
    infos = sorted(
        (i for i in source.checkpoint.tensors.values() if i.file.startswith("model-00001")),
        key=lambda info: info.offset,
    )
    hub.requests.clear()
    buffers = [memoryview(bytearray(info.nbytes)) for info in infos]
    source.read([Read(i, 0, b) for i, b in reversed(list(zip(infos, buffers, strict=True)))])
    begin, end = infos[0].offset, infos[-1].offset + infos[-1].nbytes
    assert hub.ranges() == [(infos[0].file, begin, end - 1)]


# --- what goes wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        Fault(500),
        Fault(503),
        Fault(429, {"Retry-After": "0"}),
        Fault(403),
        Fault(200),
        Fault(cut_after=0),
        Fault(cut_after=700),
        Fault(headers={"Content-Range": "bytes 0-0/x"}),
        Fault(seconds_per_chunk=0.02),
    ],
    ids=["500", "503", "429", "403", "200", "cut at once", "cut", "no range", "slow"],
)
def test_transient_failures_are_retried(
    hub: Hub, wanted: dict[str, object], tmp_path: Path, fault: Fault
) -> None:
    """Every range of every shard fails twice, and the output is the same."""
    hub.fault = once(fault, times=2)
    assert convert(LOCATION, tmp_path / "out") == wanted


@pytest.mark.parametrize(("method", "part"), [("HEAD", "/resolve/"), ("GET", "/api/models/")])
def test_the_hub_itself_fails_for_a_while(
    hub: Hub, wanted: dict[str, object], tmp_path: Path, method: str, part: str
) -> None:
    """Looking up a file or the repository is retried as well."""
    met: Counter[str] = Counter()

    def fault(asked: str, path: str, span: str | None) -> Fault | None:
        met[path] += asked == method and part in path
        return Fault(502) if asked == method and part in path and met[path] <= 2 else None

    hub.fault = fault
    assert convert(LOCATION, tmp_path / "out") == wanted


def test_a_cut_range_is_resumed(hub: Hub) -> None:
    """What has arrived is not requested again."""
    source = open_source(LOCATION)
    info = max(source.checkpoint.tensors.values(), key=lambda info: info.nbytes)
    hub.sent = 0
    cuts = iter([Fault(cut_after=1000)])
    hub.fault = lambda method, path, span: next(cuts, None) if span else None
    source.read([Read(info, 0, memoryview(bytearray(info.nbytes)))])
    assert hub.sent == info.nbytes
    assert hub.ranges()[-1] == (info.file, hub.ranges()[-2][1] + 1000, hub.ranges()[-2][2])


def test_retry_after_is_respected(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait is the server's. If it asks for hours, the run fails instead."""
    source = open_source(LOCATION)
    info = next(iter(source.checkpoint.tensors.values()))
    waits: list[float] = []
    monkeypatch.setattr(CancelToken, "wait", lambda _, seconds: waits.append(seconds))
    hub.fault = once(Fault(429, {"Retry-After": "7"}))
    source.read([Read(info, 0, memoryview(bytearray(info.nbytes)))])
    assert max(waits) == 7.0
    hub.fault = once(Fault(429, {"Retry-After": "7200"}))
    with pytest.raises(IOFailed, match="7200 s"):
        source.read([Read(info, 0, memoryview(bytearray(info.nbytes)))])


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault(500), "the server answers 500; tried 6 times"),
        (Fault(200), "the server answers 200, the whole file, to a request for a part of it"),
        (Fault(cut_after=0), "tried 6 times"),
    ],
    ids=["500", "200", "cut"],
)
def test_a_lasting_failure_ends_the_run(hub: Hub, tmp_path: Path, fault: Fault, said: str) -> None:
    """The error names the file and the fact, and no target appears."""
    streamconv.plan(LOCATION)
    hub.fault = lambda method, path, span: fault if ".safetensors" in path and span else None
    with pytest.raises(IOFailed, match=said):
        convert(LOCATION, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("location", "hint"),
    [
        ("hf://Qwen", "write hf://org/name; else check the network and HF_ENDPOINT"),
        ("hf://org/name", "check the network and HF_ENDPOINT"),
    ],
)
def test_a_hub_that_does_not_answer(hub: Hub, location: str, hint: str) -> None:
    """The hint has the network, and the form of a name if there is no organization."""
    hub.fault = lambda method, path, span: Fault(502)
    with pytest.raises(IOFailed, match=f"cannot read {location}: ") as caught:
        streamconv.inspect(location)
    assert caught.value.hint.startswith(hint)


def test_a_changed_etag_ends_the_run_at_once(hub: Hub, tmp_path: Path) -> None:
    """The bytes are of another file."""
    seen: Counter[str] = Counter()

    def fault(method: str, path: str, span: str | None) -> Fault | None:
        seen[path] += span is not None
        return Fault(headers={"ETag": '"another"'}) if seen[path] > 3 and span else None

    hub.fault = fault
    with pytest.raises(BadCheckpoint, match="has changed since it was planned: its ETag was"):
        convert(LOCATION, tmp_path / "out")
    hub.fault = lambda method, path, span: (
        Fault(headers={"ETag": '"other"'}) if method == "HEAD" else None
    )
    with pytest.raises(BadCheckpoint, match="the hub listed it as"):
        convert(LOCATION, tmp_path / "out")


# --- waits that end ----------------------------------------------------------------------------

LATER = Fault(429, {"Retry-After": "60"})


@pytest.mark.parametrize(
    ("waiting", "words", "number"),
    [
        ("listing", ("convert",), signal.SIGINT),
        ("header", ("convert",), signal.SIGTERM),
        ("data", ("convert",), signal.SIGINT),
        ("data", ("convert",), signal.SIGTERM),
        ("data", ("verify",), signal.SIGINT),
        ("nothing", ("convert", "--max-rate", "4kB/s"), signal.SIGTERM),
        ("nothing", ("convert", "-j", "1", "--max-rate", "4kB/s"), signal.SIGINT),
    ],
    ids=str,
)
def test_a_signal_ends_every_wait(
    hub: Hub, folder: Path, tmp_path: Path, waiting: str, words: tuple[str, ...], number: int
) -> None:
    """The server's minute and the rate's hour are not waited for."""
    met = threading.Event()

    def later(method: str, path: str, span: str | None) -> Fault | None:
        begin = int(span.removeprefix("bytes=").partition("-")[0]) if span else 0
        what = "header" if begin < 100 else "data"
        what = what if ".safetensors" in path and method == "GET" else "listing"
        if what == waiting or (what == "data" and waiting == "nothing"):
            met.set()
        return LATER if what == waiting else None

    dst = tmp_path / "out"
    verb, *more = words
    if verb == "verify":
        streamconv.convert(folder, dst, to="fused-transposed")
    else:
        more += ["--to", "fused-transposed"]
    before = tree(tmp_path)
    hub.fault = later
    running = subprocess.Popen(
        [sys.executable, "-m", "streamconv", verb, LOCATION, str(dst), *more],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HOME": str(tmp_path), "HF_ENDPOINT": hub.url},
    )
    try:
        assert met.wait(20)
        time.sleep(0.2)
        running.send_signal(number)
        _, said = running.communicate(timeout=5)
    finally:
        running.kill()
        running.communicate()
    assert running.returncode == 128 + number, said
    assert "Traceback" not in said
    assert tree(tmp_path) == before


def test_a_worker_that_fails_ends_the_waits_of_others(hub: Hub, tmp_path: Path) -> None:
    """And its error is the one that is reported."""
    asked = threading.Event()

    def fault(method: str, path: str, span: str | None) -> Fault | None:
        if ".safetensors" not in path or not span or span.startswith(("bytes=0-", "bytes=8-")):
            return None
        if asked.is_set():
            time.sleep(0.2)
            return Fault(headers={"ETag": '"another"'})
        asked.set()
        return LATER

    hub.fault = fault
    begin = time.monotonic()
    with pytest.raises(SourceChanged, match="its ETag was"):
        convert(LOCATION, tmp_path / "out")
    assert time.monotonic() - begin < 20


# --- who may read ------------------------------------------------------------------------------


def test_a_token_is_shown_to_the_hub_alone(
    hub: Hub, wanted: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A private repository is read with HF_TOKEN; the storage never sees it."""
    hub.token = "hf_secret"
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert convert(LOCATION, tmp_path / "out") == wanted
    assert hub.leaked == []


@pytest.mark.parametrize("location", ["hf://", "hf://a/b/c", "hf://org/a@", "hf://org/na--me..x"])
def test_a_location_that_names_no_repository(hub: Hub, location: str) -> None:
    """It is a usage error."""
    with pytest.raises(UsageError):
        streamconv.inspect(location)


def test_a_name_that_leads_elsewhere_is_refused(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a hub lists stays below the output."""
    listed = Path.as_posix
    monkeypatch.setattr(
        Path, "as_posix", lambda p: "../tokenizer.json" if p.name == "tokenizer.json" else listed(p)
    )
    with pytest.raises(BadCheckpoint, match="no name of a file below it"):
        streamconv.inspect(LOCATION)


# --- the cache ---------------------------------------------------------------------------------


def cached(cache: Path, folder: Path, *names: str) -> None:
    """Put files into the hub's cache as huggingface_hub does: blobs, and links to them."""
    repo = cache / f"models--{REPO.replace('/', '--')}"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(COMMIT)
    (repo / "blobs").mkdir()
    for name in names:
        blob = repo / "blobs" / name.replace("/", "-")
        blob.write_bytes((folder / name).read_bytes())
        link = repo / "snapshots" / COMMIT / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))


def test_files_in_the_cache_are_read_from_there(
    hub: Hub, folder: Path, wanted: dict[str, object], tmp_path: Path
) -> None:
    """Only the others are transferred, and the plan says so."""
    whole = streamconv.plan(LOCATION).transfer_bytes
    shard = "model-00002-of-00002.safetensors"
    cached(tmp_path / "cache", folder, shard, "tokenizer.json")
    assert streamconv.plan(LOCATION).transfer_bytes < 0.6 * whole
    hub.requests.clear()
    assert convert(LOCATION, tmp_path / "out") == wanted
    assert {name for name, _, _ in hub.ranges()} & {shard, "tokenizer.json"} == set()


def test_offline_the_cached_snapshot_is_the_source(
    hub: Hub,
    folder: Path,
    wanted: dict[str, object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without one request, and with the same fingerprint; what is not cached is named."""
    convert(LOCATION, tmp_path / "online")
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    cached(tmp_path / "cache", folder, *names)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    assert convert(LOCATION, tmp_path / "out") == wanted
    assert tree(tmp_path / "out") == tree(tmp_path / "online")
    assert hub.requests == []
    with pytest.raises(BadCheckpoint, match="offline mode is on"):
        streamconv.inspect("hf://org/other")


def test_offline_a_fifo_as_the_commit_of_a_branch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not waited for."""
    refs = tmp_path / "models--org--name/refs"
    refs.mkdir(parents=True)
    os.mkfifo(refs / "main")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BadCheckpoint, match="refs/main in the hub's cache is not a regular file"):
        streamconv.inspect("hf://org/name")


@pytest.mark.parametrize("name", ["../..", "-a/b", "a--b/c", "a" * 5000])
def test_offline_a_name_that_no_repository_has(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="not a valid name of a repository"):
        streamconv.inspect(f"hf://{name}")


# --- memory ------------------------------------------------------------------------------------


def test_memory_stays_below_the_projection(hub: Hub, tmp_path: Path) -> None:
    """The client that speaks to the hub counted, in a process of its own."""
    script = (
        "import streamconv, sys;"
        "r = streamconv.convert(sys.argv[1], sys.argv[2], to='fused-transposed');"
        "print(r.peak_memory, r.plan.memory.peak)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, LOCATION, str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HF_HOME": str(tmp_path), "HF_ENDPOINT": hub.url},
    )
    measured, projected = map(int, done.stdout.split())
    assert measured <= projected


# --- other URLs --------------------------------------------------------------------------------


@pytest.fixture
def in_memory(folder: Path) -> Iterator[str]:
    """The checkpoint in fsspec's memory file system."""
    filesystem = fsspec.filesystem("memory")
    filesystem.put(str(folder), "/bucket/checkpoint", recursive=True)
    yield "memory://bucket/checkpoint"
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]


def test_a_url_becomes_what_its_files_become(
    in_memory: str, folder: Path, wanted: dict[str, object], tmp_path: Path
) -> None:
    """`memory://` and `file://`, byte for byte."""
    assert convert(in_memory, tmp_path / "a") == wanted
    assert convert(folder.as_uri(), tmp_path / "b") == wanted


BOOKKEEPING = (
    *(".git/config", ".git/hooks/post-checkout", "vocab/.git", "vocab/.hg/hgrc"),
    ".cache/huggingface/download/x.lock",
)


@pytest.mark.parametrize("kind", ["folder", "url", "hub"])
def test_bookkeeping_of_a_source_is_not_copied(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Git runs commands that are written in `.git`. `verify` expects it from no kind of source."""
    src = write_checkpoint(tmp_path / "src", two_shards(qwen_tensors()), {})
    for name in BOOKKEEPING:
        (src / name).parent.mkdir(parents=True, exist_ok=True)
        (src / name).write_text("[core]")
    with taken_for_the_hub(Hub({REPO: src}), tmp_path, monkeypatch):
        locations = {"folder": str(src), "url": src.as_uri(), "hub": LOCATION}
        streamconv.merge(locations[kind], tmp_path / "out")
        assert {*tree(tmp_path / "out")}.isdisjoint(BOOKKEEPING)
        for location in locations.values():
            assert streamconv.verify(location, tmp_path / "out").ok
        assert streamconv.verify(tmp_path / "out").ok


TAKEN = (
    *("streamconv.json/x", "model.safetensors.index.json/x", "model-00001-of-00006.safetensors/x"),
    *("streamconv-journal-1.jsonl/x", "streamconv-journal-9.jsonl/a/x"),
    *("streamconv-journal-command.json/x", "streamconv-journal-target.txt/x", ".metadata/x"),
    *("x.distcp/x", "config.json/x", "hf_quant_config.json/x", "Streamconv.json", "CONFIG.json/x"),
    "latest_checkpointed_iteration.txt",
)
"""Names of files that a run or a result has, or that say what a folder is, and folders of them."""


@pytest.mark.parametrize("name", TAKEN)
def test_other_files_with_a_name_that_is_taken(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan refuses the source, or leaves them out; the run and its result have no harm."""
    src = tmp_path / "src"
    write_checkpoint(src, {"weights-a.safetensors": qwen_tensors(layers=1)})
    (src / "notes.txt").write_text("notes")
    streamconv.merge(src, tmp_path / "out", max_shard_size="500")
    result = output(tmp_path / "out")
    (src / name.partition("/")[0]).unlink(missing_ok=True)
    (src / name).parent.mkdir(parents=True, exist_ok=True)
    (src / name).write_text("x")
    with taken_for_the_hub(Hub({REPO: src}), tmp_path, monkeypatch):
        for location in (str(src), src.as_uri(), LOCATION):
            try:
                streamconv.plan(location, max_shard_size="500")
            except (BadCheckpoint, PlanRefused) as error:
                with pytest.raises(type(error)):
                    streamconv.merge(
                        location, tmp_path / "out", max_shard_size="500", overwrite=True
                    )
            else:
                streamconv.merge(location, tmp_path / "out", max_shard_size="500", overwrite=True)
                assert streamconv.verify(location, tmp_path / "out").ok
            assert streamconv.verify(tmp_path / "out").ok
            assert output(tmp_path / "out") == result
            assert not [path for path in tmp_path.iterdir() if path.name.startswith("out.")]


def test_urls_that_cannot_be_read(in_memory: str, tmp_path: Path) -> None:
    """Another kind of URL than there is, nothing there, files gone or shorter."""
    with pytest.raises(UsageError, match="cannot open"):
        streamconv.inspect("nonsense://bucket/x")
    with pytest.raises(BadCheckpoint, match="there are no files"):
        streamconv.inspect("memory://bucket/empty")
    source = open_source(in_memory)
    info = max(source.checkpoint.tensors.values(), key=lambda info: info.offset)
    store = fsspec.filesystem("memory").store
    path = f"/bucket/checkpoint/{info.file}"
    source.check_unchanged()
    store[path].truncate(info.offset + 1)
    with pytest.raises(SourceChanged, match="has changed since it was planned"):
        source.check_unchanged()
    with pytest.raises(BadCheckpoint, match="has changed since it was planned"):
        source.read([Read(info, 0, memoryview(bytearray(info.nbytes)))])
    del store[path]
    with pytest.raises(BadCheckpoint, match="has gone"):
        source.read([Read(info, 0, memoryview(bytearray(info.nbytes)))])
