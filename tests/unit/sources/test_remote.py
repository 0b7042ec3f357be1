"""What is requested of files on another machine, and in which order they are listed."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from streamconv.checkpoint.types import TensorInfo
from streamconv.errors import BadCheckpoint
from streamconv.options import Opening
from streamconv.sources.base import Read
from streamconv.sources.remote import merge_adjacent, open_remote
from streamconv.sources.safetensors_folder import open_folder
from streamconv.system.cancellation import CancelToken

SHARD = (
    (60).to_bytes(8, "little") + b'{"w":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}'.ljust(60)
) + b"abcd"


class Files:
    """Remote files in memory, with a log of what is read."""

    location = "remote://folder"
    revision = "c0ffee"
    local_paths = (Path("archive"),)

    def __init__(self, contents: Mapping[str, bytes]) -> None:
        self.contents = contents
        self.sizes = {name: len(content) for name, content in contents.items()}
        self.scratch_bytes = 3
        self.read: list[tuple[str, int, int]] = []

    def is_cached(self, name: str) -> bool:
        return name == "config.json"

    def read_into(self, name: str, offset: int, buffers: Sequence[memoryview]) -> None:
        self.read.append((name, offset, sum(map(len, buffers))))
        for buffer in buffers:
            buffer[:] = self.contents[name][offset : offset + len(buffer)]
            offset += len(buffer)

    def check_unchanged(self) -> None:
        return

    def close(self) -> None:
        return


def test_adjacent_reads_are_merged() -> None:
    """Gaps and other files end a request; nothing is requested that is not wanted."""
    infos = [
        TensorInfo(f"t{k}", "U8", (10,), f, o, 10)
        for k, (f, o) in enumerate([("a", 100), ("a", 110), ("a", 130), ("b", 140), ("a", 90)])
    ]
    reads = [Read(info, 0, memoryview(bytearray(10))) for info in infos]
    found = [(name, offset, len(buffers)) for name, offset, buffers in merge_adjacent(reads)]
    assert found == [("a", 90, 3), ("a", 130, 1), ("b", 140, 1)]
    assert list(merge_adjacent([])) == []


def test_opening_reads_headers_and_json() -> None:
    files = Files({"model.safetensors": SHARD, "config.json": b"{}", "notes.txt": b"text"})
    source = open_remote(files, Opening(), CancelToken())
    assert source.checkpoint.read_scratch_bytes == 3
    assert sorted(files.read) == [
        ("config.json", 0, 2),
        ("model.safetensors", 0, 8),
        ("model.safetensors", 8, 60),
    ]
    assert source.checkpoint.revision == "c0ffee"
    assert source.checkpoint.local_paths == ("archive",)
    assert source.checkpoint.remote == {"model.safetensors", "notes.txt"}
    buffer = bytearray(2)
    source.read([Read(source.checkpoint.tensors["w"], 1, memoryview(buffer))])
    assert buffer == b"bc"


def test_files_come_before_folders() -> None:
    """As in a walk through a local folder."""
    names = ["z.txt", "a/b/c.txt", "a/z.txt", "b.txt"]
    files = Files({"model.safetensors": SHARD, **dict.fromkeys(names, b"")})
    source = open_remote(files, Opening(), CancelToken())
    assert [o.name for o in source.checkpoint.others] == ["b.txt", "z.txt", "a/z.txt", "a/b/c.txt"]


def test_other_files_are_those_of_a_local_folder(tmp_path: Path) -> None:
    """Bookkeeping is one entry, wherever it is."""
    names = [".git/config", ".git/hooks/x", "a/.GIT", "a/b/.cache/huggingface/x", ".hg/hgrc", "a/c"]
    contents = {"model.safetensors": SHARD, **dict.fromkeys(names, b"text")}
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    found = open_remote(Files(contents), Opening(), CancelToken()).checkpoint.others
    assert found == open_folder(str(tmp_path)).checkpoint.others
    assert [other.name for other in found if not other.skip_reason] == ["a/c"]


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a\\b", "a//b", "x\n"])
def test_a_listed_name_that_leads_elsewhere(name: str) -> None:
    with pytest.raises(BadCheckpoint, match="no name of a file below it"):
        open_remote(Files({"model.safetensors": SHARD, name: b""}), Opening(), CancelToken())


def test_a_shard_that_is_not_listed() -> None:
    index = b'{"weight_map": {"w": "other.safetensors"}}'
    files = Files({"model.safetensors.index.json": index})
    with pytest.raises(
        BadCheckpoint, match=r"other\.safetensors: it is missing from remote://folder"
    ):
        open_remote(files, Opening(), CancelToken())
