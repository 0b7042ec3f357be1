"""One folder by two names that device and inode do not tell: nothing that is read is removed.

A file system that takes names in any case lists each entry once; a second mount of a file system
shows what a run has made by its first one. Both are done here to folders of an ordinary one.
"""

from pathlib import Path
from typing import Any

import pytest
from faulty import with_files
from folders import qwen_tensors, tree, two_shards, write_checkpoint

import streamconv
from streamconv.errors import OutputExists
from streamconv.system.linux_file_ops import LinuxFiles


def checkpoint(folder: Path) -> Path:
    config = {"model_type": "qwen3_moe", "num_experts": 2}
    write_checkpoint(folder, two_shards(qwen_tensors(experts=2)), config)
    return folder


class AnyCase(LinuxFiles):
    """A file system that takes names in any case: folders list none of these spellings."""

    def __init__(self, hidden: tuple[str, ...]) -> None:
        super().__init__()
        self.hidden = hidden

    def names(self, folder: Path) -> list[str]:
        return [name for name in super().names(folder) if name not in self.hidden]


class TwoMounts(LinuxFiles):
    """A file system that is mounted at two places: each lock shows at both."""

    def __init__(self, second: Path) -> None:
        super().__init__()
        self.second = second
        self.lock_name = ""

    def open_append(self, path: Path, *, create: bool = True) -> int:
        self.lock_name = path.name
        return super().open_append(path, create=create)

    def append(self, fd: int, data: bytes | memoryview) -> None:
        super().append(fd, data)
        if "-lock-" in self.lock_name:
            (self.second / self.lock_name).write_bytes(data)


@pytest.mark.parametrize("role", ["source", "--template", "--family"])
@pytest.mark.parametrize(
    ("listed", "target"),
    [("Model", "model"), ("Model", "model/out"), ("Models/a", "models/a"), ("A/b", "a/c")],
)
def test_the_target_is_the_source_in_another_case(
    role: str, listed: str, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 6 with both spellings, before anything happens."""
    read, spelled = tmp_path / listed, target.partition("/")[0]
    source = checkpoint(read if role == "source" else tmp_path / "src")
    options: dict[str, Any] = {}
    if role == "--template":
        options["template"] = str(checkpoint(read))
    if role == "--family":
        read.mkdir(parents=True, exist_ok=True)
        (read / "own.toml").write_text("")
        options["family"] = str(read / "own.toml")
    (tmp_path / spelled).mkdir(exist_ok=True)
    checkpoint(tmp_path / spelled / "a")
    if target == "model":
        checkpoint(tmp_path / target)
    true = Path.iterdir
    monkeypatch.setattr(
        Path, "iterdir", lambda path: (found for found in true(path) if found.name != spelled)
    )
    before = tree(tmp_path)
    with pytest.raises(OutputExists, match="two spellings") as caught:
        streamconv.convert(source, tmp_path / target, to="fused", overwrite=True, **options)
    assert role in caught.value.message
    assert spelled in caught.value.message
    assert tree(tmp_path) == before


@pytest.mark.parametrize("suffix", ["", ".streamconv-partial", ".streamconv-replaced"])
def test_what_a_run_to_another_spelling_has_left(suffix: str, tmp_path: Path) -> None:
    """Exit 6 with the name that the folder lists; nothing is touched."""
    source = checkpoint(tmp_path / "src")
    for spelling in ("OUT", "out"):
        (tmp_path / f"{spelling}{suffix}").mkdir(exist_ok=True)
    before = tree(tmp_path)
    with pytest.raises(OutputExists, match=f"lists it as OUT{suffix}"):
        with_files(
            AnyCase((f"out{suffix}",)),
            lambda: streamconv.convert(source, tmp_path / "out", to="fused", overwrite=True),
        )
    assert tree(tmp_path) == before


@pytest.mark.parametrize("target", ["Model", "Model/out"])
def test_the_source_by_a_second_mount(target: str, tmp_path: Path) -> None:
    """Exit 6 with both paths, before anything of the target is touched."""
    for mount in ("first", "second"):
        checkpoint(tmp_path / mount / "Model")
    source = tmp_path / "second" / "Model"
    before = tree(tmp_path)
    second = (source.parent.parent / "second" / target).parent
    with pytest.raises(OutputExists, match="overlap") as caught:
        with_files(
            TwoMounts(second),
            lambda: streamconv.convert(
                source, tmp_path / "first" / target, to="fused", overwrite=True
            ),
        )
    assert str(tmp_path / "first" / target) in caught.value.message
    left = set(second.glob("*.streamconv-*"))
    for path in left:  # the copy by the other mount, which would be gone with the lock itself
        path.unlink()
    assert len(left) == 1
    assert tree(tmp_path) == before
