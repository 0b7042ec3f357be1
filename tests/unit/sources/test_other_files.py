"""Which files without tensors are found and copied."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamconv.checkpoint.types import OtherFile
from streamconv.errors import BadCheckpoint
from streamconv.sources.other_files import MAX_FOLDERS, other_files, select_copied_files
from streamconv.system.linux_file_ops import LinuxFiles

BOOKKEEPING = "bookkeeping of a tool, about this copy of the files"

IN_FOLDER = "in a folder with the name of a file that is not copied"


@pytest.fixture(autouse=True)
def _nothing_deep_is_left(tmp_path: Path) -> Iterator[None]:
    """pytest removes old folders by recursion, and would fail at the deepest of them."""
    yield
    subprocess.run(["rm", "-rf", tmp_path / "a"], check=True)


def reason(name: str, size: int = 1, weight_bytes: int = 100) -> str:
    (other,) = select_copied_files([OtherFile(name, size)], weight_bytes)
    return other.skip_reason


@pytest.mark.parametrize(
    "name",
    [
        *("config.json", "tokenizer.json", "modeling.py", "vocab/merges.txt", "a.index.json"),
        *(
            "preprocessor.bin",
            "adapter/model.safetensors",
            "original/params.json",
            ".gitattributes",
            *("a/streamconv.json", "a/model.safetensors.index.json", "a/.metadata"),
            *(".gitmodules", ".github/ci.yml", "x.git/HEAD", ".cache/x", "huggingface/x"),
        ),
    ],
)
def test_files_that_are_copied(name: str) -> None:
    assert reason(name) == ""


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("streamconv.json", "describes the source"),
        ("streamconv-journal-0", "the journal of a run that was not finished"),
        ("model.safetensors.index.json", "the index of the source's shards"),
        ("left.safetensors", "not in the index"),
        ("__9_0.distcp", "not in .metadata"),
        (".metadata", "describes chunks of tensors"),
        ("pytorch_model-00001-of-00002.bin", "the weights in a legacy format"),
        ("pytorch_model.bin.index.json", "the index of the weights in a legacy format"),
        ("original/consolidated.00.pth", "a second copy of the weights"),
        ("latest_checkpointed_iteration.txt", "names the last save of a training run"),
        ("streamconv.json/n.txt", IN_FOLDER),
        ("model.safetensors.index.json/a/x", IN_FOLDER),
        ("streamconv-journal-1.jsonl/x", IN_FOLDER),
        ("model-00001-of-00006.safetensors/x", IN_FOLDER),
        (".metadata/x", IN_FOLDER),
        (".git/", BOOKKEEPING),
        (".git/hooks/post-checkout", BOOKKEEPING),
        (".GIT/config", BOOKKEEPING),
        ("a/b/.git/config", BOOKKEEPING),
        (".hg/hgrc", BOOKKEEPING),
        (".svn/wc.db", BOOKKEEPING),
        (".cache/huggingface/", BOOKKEEPING),
        ("a/.cache/huggingface/download/x.lock", BOOKKEEPING),
    ],
)
def test_files_that_are_not_copied(name: str, why: str) -> None:
    assert reason(name) == why


def test_a_folder_with_half_as_many_bytes_is_a_second_copy() -> None:
    """Together, whatever the format; its other files are copied all the same."""
    others = [
        OtherFile("gguf/a.gguf", 30),
        OtherFile("gguf/b.gguf", 20),
        OtherFile("gguf/README.md", 5),
        OtherFile("small/a.gguf", 49),
    ]
    skipped = [other.name for other in select_copied_files(others, 100) if other.skip_reason]
    assert skipped == ["gguf/a.gguf", "gguf/b.gguf"]


TREE = (
    *("b.txt", "model.safetensors", "a/x/1.txt", "a/y.txt", ".git/config", "a/.Git"),
    *("a/x/.cache/huggingface/y/1.lock", "a/x/.cache/huggingface/2.lock"),
)


def test_a_folder_is_walked(tmp_path: Path) -> None:
    """Files before folders; a tool's folder is one entry, a shard none."""
    for name in TREE:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    (tmp_path / "a/.hg").symlink_to("nowhere")
    found = list(other_files(tmp_path, {"model.safetensors"}, LinuxFiles()))
    assert found == [
        OtherFile(".git/", 0),
        OtherFile("b.txt", 4),
        OtherFile("a/.Git/", 0),
        OtherFile("a/.hg/", 0),
        OtherFile("a/y.txt", 4),
        OtherFile("a/x/1.txt", 4),
        OtherFile("a/x/.cache/huggingface/", 0),
    ]


def test_a_link_to_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(BadCheckpoint, match="cannot read b: it is a link to a folder"):
        list(other_files(tmp_path, set(), LinuxFiles()))


@pytest.mark.parametrize("depth", [MAX_FOLDERS, MAX_FOLDERS + 1, 300])
def test_folders_nested_deeply(depth: int, tmp_path: Path) -> None:
    """A file below 127 of them is found like any other; more are refused, in words."""
    below = tmp_path
    for _ in range(depth):
        below /= "a"
        below.mkdir()
    (below / "file").write_text("1")
    if depth == MAX_FOLDERS:
        found = list(other_files(tmp_path, set(), LinuxFiles()))
        assert [other.name for other in found] == [f"{'a/' * depth}file"]
    else:
        with pytest.raises(BadCheckpoint, match="lies below more than 127 folders"):
            list(other_files(tmp_path, set(), LinuxFiles()))
