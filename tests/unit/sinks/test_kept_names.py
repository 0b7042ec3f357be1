"""Names that a file system does not keep are found before the first shard, and leave nothing."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from unicodedata import normalize

import pytest
from faulty import Twin, with_files
from folders import qwen_tensors, tree, two_shards, write_checkpoint

import streamconv
from streamconv.errors import IOFailed
from streamconv.sinks.kept_names import check_kept_names, unusual_names
from streamconv.system.linux_file_ops import LinuxFiles
from streamconv.system.spellings import folded

COMPOSED, DECOMPOSED = "caf\u00e9.txt", "cafe\u0301.txt"


def as_it_is(name: str) -> str:
    return name


def decomposed(name: str) -> str:
    return normalize("NFD", name)


def without_dots(name: str) -> str:
    return name.rstrip(". ")


class Other(Twin):
    """A file system that stores names in its own way; counts what is done, as `Twin` does."""

    def __init__(self, stored: Callable[[str], str], *, any_case: bool, refused: str = "") -> None:
        super().__init__()
        self.stored = stored
        self.any_case = any_case
        self.refused = refused

    def create_small(self, path: Path) -> int:
        if any(character in path.name for character in self.refused):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if self.any_case:
            for other in path.parent.iterdir():
                if folded(other.name) == folded(path.name):
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        return super().create_small(path)

    def names(self, folder: Path) -> list[str]:
        names = super().names(folder)
        is_target = any(part.endswith("-partial") for part in folder.parts)
        return [self.stored(name) for name in names] if is_target else names


CASES = {
    "two cases": (as_it_is, True, "", ["README.md", "readme.md"], "name of another file"),
    "two forms": (as_it_is, True, "", [COMPOSED, DECOMPOSED], "name of another file"),
    "folders in two cases": (
        *(as_it_is, True, "", ["a/b/README.md", "a/b/readme.md"], "name of another file"),
    ),
    "one form": (decomposed, False, "", [COMPOSED], "keeps it under another one"),
    "a folder of one form": (decomposed, False, "", ["\u00e9/x"], "keeps it under another one"),
    "a dot": (without_dots, False, "", ["notes."], "keeps it under another one"),
    "a space": (without_dots, False, "", ["a/notes "], "keeps it under another one"),
    "a colon": (as_it_is, False, ":?", ["a:b"], "refuses it: Invalid argument"),
    "a question mark": (as_it_is, False, ":?", ["sub/what?"], "refuses it: Invalid argument"),
}
"""How names are stored, if in any case, what is refused, the names, and what is said."""


@pytest.mark.parametrize("case", CASES)
def test_a_name_that_is_not_kept(case: str, tmp_path: Path) -> None:
    """Exit 8 with the name, before a shard is made; the source and what is beside it stay."""
    stored, any_case, refused, names, fact = CASES[case]
    source = write_checkpoint(
        tmp_path / "src", two_shards(qwen_tensors(experts=2)), {"model_type": "qwen3_moe"}
    )
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    files = Other(stored, any_case=any_case, refused=refused)
    before = tree(tmp_path)
    with pytest.raises(IOFailed, match=fact) as caught:
        with_files(files, lambda: streamconv.convert(source, tmp_path / "out", to="fused"))
    assert "cannot write" in caught.value.message
    assert "_allocate" not in files.done
    assert tree(tmp_path) == before
    streamconv.convert(source, tmp_path / "out", to="fused")  # where they are kept
    assert {*names} <= {*tree(tmp_path / "out")}
    assert streamconv.verify(source, tmp_path / "out").ok


def test_what_is_tried() -> None:
    """Only names that some file system would not keep."""
    plain = ["a.json", "sub/b.txt", "sub/c", ".hidden", "v1.0", "a b", "sub/deep/d"]
    odd = ["A.json", "Sub/x", "e\u0301", "x:y", "z.", "n" * 150]
    assert unusual_names(plain) == []
    assert unusual_names([*plain, *odd]) == ["a.json", "sub/b.txt", "sub/c", "sub/deep/d", *odd]


def test_what_an_earlier_run_has_left(tmp_path: Path) -> None:
    """Copies and folders of it are in nobody's way, and a shard in such a folder stays."""
    for name in ("README.md", "readme.md", "r\u00e9/shard", "r\u00e9/file"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("left")
    check_kept_names(tmp_path, ["README.md", "readme.md", "r\u00e9/file"], LinuxFiles())
    assert [*tree(tmp_path)] == ["r\u00e9", "r\u00e9/shard"]


def test_each_folder_is_listed_once(tmp_path: Path) -> None:
    """However many of its names are unusual."""
    listed: list[Path] = []

    class Counting(LinuxFiles):
        def names(self, folder: Path) -> list[str]:
            listed.append(folder)
            return super().names(folder)

    names = [f"{above}caf\u00e9 {n}.txt" for above in ("", "one/", "one/two/") for n in range(20)]
    check_kept_names(tmp_path, names, Counting())
    assert sorted(listed) == [tmp_path, tmp_path / "one", tmp_path / "one" / "two"]
