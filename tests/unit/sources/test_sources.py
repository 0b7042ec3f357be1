"""The contract of a source, `streamconv/sources/base.py`, for every kind of source."""

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import torch
from dcp_folders import write_dcp
from folders import (
    SHARDS,
    Tensors,
    qwen_tensors,
    read_checkpoint,
    read_shard,
    two_shards,
    write_checkpoint,
)
from hub_server import Hub, taken_for_the_hub

from streamconv.catalog.catalog import default_catalog
from streamconv.checkpoint.types import OtherFile
from streamconv.errors import SourceChanged
from streamconv.options import Reading
from streamconv.sources.base import Read, Source
from streamconv.sources.open import open_source
from streamconv.sources.wrappers.cast import CastSource
from streamconv.sources.wrappers.open_with_template import open_with_template
from streamconv.sources.wrappers.rate_limit import Throttle, ThrottledSource
from streamconv.system.cancellation import CancelToken


def open_on_hub(folder: Path, stack: ExitStack) -> Source:
    patch = stack.enter_context(pytest.MonkeyPatch.context())
    stack.enter_context(taken_for_the_hub(Hub({"org/name": folder}), folder.parent, patch))
    return open_source("hf://org/name")


def as_dcp(folder: Path, tensors: Tensors) -> Path:
    """Write a DCP of these, each cut along its last axis, with the other files of `folder`."""
    dcp = folder.with_name("dcp")
    cut = {}
    for name, (dtype, shape, data) in tensors.items():
        assert dtype == "BF16"
        whole = torch.frombuffer(bytearray(data), dtype=torch.bfloat16).reshape(shape)
        cut[name] = whole, [*([] for _ in shape[1:]), [shape[-1] // 2]]
    write_dcp(dcp, cut, files=3)
    for name in ("config.json", "vocab"):
        (shutil.copytree if (folder / name).is_dir() else shutil.copy)(folder / name, dcp / name)
    return dcp


def trained_with_template(folder: Path, stack: ExitStack) -> Source:
    """Open the first shard as a training run left it, and the second from its template."""
    trained = as_dcp(folder, read_shard(folder / SHARDS[0])[0])
    reading: Reading = {"template": folder, "fill_from_template": True}
    return stack.enter_context(open_with_template(trained, default_catalog(), reading))


KINDS: dict[str, Callable[[Path, ExitStack], Source]] = {
    "folder": lambda folder, _: open_source(str(folder)),
    "hub": open_on_hub,
    "url": lambda folder, _: open_source(folder.as_uri()),
    "dcp": lambda folder, _: open_source(str(as_dcp(folder, read_checkpoint(folder)))),
    "template": trained_with_template,
    "throttled": lambda folder, _: ThrottledSource(
        open_source(str(folder)), Throttle(10**12, CancelToken())
    ),
    "casting": lambda folder, _: CastSource(open_source(str(folder))),
}
"""Open the checkpoint of a folder as each kind of source; the stack ends with the test."""


@pytest.fixture
def tensors() -> Tensors:
    return qwen_tensors()


@pytest.fixture(params=KINDS)
def source(request: pytest.FixtureRequest, tmp_path: Path, tensors: Tensors) -> Iterator[Source]:
    folder = write_checkpoint(tmp_path / "source", two_shards(tensors), {"model_type": "qwen3_moe"})
    (folder / "vocab").mkdir()
    (folder / "vocab" / "merges.txt").write_text("a b\n" * 1000)
    with ExitStack() as stack:
        yield stack.enter_context(closing(KINDS[request.param](folder, stack)))


def test_the_local_paths_are_named(source: Source, tmp_path: Path) -> None:
    """Of the source and of its template: the conversion may remove none of them."""
    found, template = source.checkpoint, source.checkpoint.template
    named = found.local_paths + (template.local_paths if template else ())
    kind = "dcp" if found.format == "dcp" else "source"
    if found.revision:
        kind = "cache/models--org--name"
    read = {str(tmp_path / name) for name in ({kind, "source"} if template else {kind})}
    assert read <= {*named}


def test_the_headers_are_read(source: Source, tensors: Tensors) -> None:
    """Every tensor with dtype, shape and size; every file; the config."""
    checkpoint = source.checkpoint
    assert {
        name: (info.dtype, info.shape, info.nbytes) for name, info in checkpoint.tensors.items()
    } == {name: (dtype, shape, len(data)) for name, (dtype, shape, data) in tensors.items()}
    assert checkpoint.total_bytes == sum(len(data) for _, _, data in tensors.values())
    assert len(checkpoint.files) >= 2
    assert {file.name for file in checkpoint.files} == {
        info.file for info in checkpoint.tensors.values()
    }
    copied = {other.name for other in checkpoint.others if not other.skip_reason}
    assert copied == {"config.json", "vocab/merges.txt"}
    assert checkpoint.config == {"model_type": "qwen3_moe"}


def test_a_batch_fills_every_buffer(source: Source, tensors: Tensors) -> None:
    """Whole tensors and parts of them, neighbours and strangers, twice the same, in any order."""
    reads, wanted = [], []
    for name in reversed(list(tensors)):
        data = tensors[name][2]
        for begin, end in ((0, len(data)), (len(data) // 2, len(data)), (3, 4), (0, 0)):
            buffer = memoryview(bytearray(b"\xee" * (end - begin + 2)))
            reads.append(Read(source.checkpoint.tensors[name], begin, buffer[1:-1]))
            wanted.append((buffer, b"\xee" + data[begin:end] + b"\xee"))
    source.read(reads)
    source.read([])
    assert all(bytes(buffer) == data for buffer, data in wanted)


def test_another_file_is_read(source: Source) -> None:
    """From any offset, to its end and no further."""
    other = OtherFile("vocab/merges.txt", 4000)
    room = memoryview(bytearray(3000))
    assert source.read_other(other, room, 0) == 3000
    assert bytes(room) == b"a b\n" * 750
    assert source.read_other(other, room, 3002) == 998
    assert bytes(room[:998]) == b"b\n" + b"a b\n" * 249
    assert source.read_other(other, room, 4000) == 0


@pytest.mark.parametrize("which", [0, -1])
def test_a_file_that_changes_meanwhile(
    source: Source, tmp_path: Path, request: pytest.FixtureRequest, which: int
) -> None:
    """Is noticed if it was read, whichever it is; a commit of the hub cannot change."""
    firsts = {info.file: info for info in source.checkpoint.tensors.values()}
    source.read([Read(info, 0, memoryview(bytearray(1))) for info in firsts.values()])
    source.check_unchanged()
    name = sorted(firsts)[which]
    (path,) = tmp_path.glob(f"*/{name}")
    with path.open("ab") as file:
        file.write(b"x")
    if request.node.callspec.params["source"] == "hub":
        assert source.checkpoint.revision
        source.check_unchanged()
    else:
        with pytest.raises(SourceChanged, match=name):
            source.check_unchanged()


def test_the_checkpoint_outlives_its_source(source: Source, tensors: Tensors) -> None:
    """And a source may be closed twice."""
    source.close()
    source.close()
    assert source.checkpoint.tensors.keys() == tensors.keys()


def test_threads_read_at_the_same_time(source: Source, tensors: Tensors) -> None:
    """Each gets its own bytes, from the first read on."""

    def read(name: str) -> bytes:
        info = source.checkpoint.tensors[name]
        buffer = memoryview(bytearray(info.nbytes))
        source.read([Read(info, 0, buffer)])
        return bytes(buffer)

    names = [*tensors, *reversed(tensors)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, names)) == [tensors[name][2] for name in names]
