"""The four ways to run a conversion: whole, a part, the rest of parts, and what each refuses."""

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from folders import qwen_tensors, tree, two_shards, write_checkpoint

from streamconv.errors import IOFailed, OutputExists, StreamconvError, UsageError
from streamconv.execution import conversion
from streamconv.execution.conversion import finish_conversion, run_conversion
from streamconv.execution.request import ConversionRequest
from streamconv.sinks import journal_files
from streamconv.system.file_ops import Files


@pytest.fixture
def src(tmp_path: Path) -> Path:
    config = {"model_type": "qwen3_moe", "num_experts": 2}
    return write_checkpoint(tmp_path / "src", two_shards(qwen_tensors(experts=2)), config)


def request(src: Path, dst: Path, *, verify: bool = False, **options: Any) -> ConversionRequest:
    options = {"max_shard_size": 300, "jobs": 1, **options}
    return ConversionRequest(str(src), dst, "fused", False, False, verify, options)  # type: ignore[arg-type]


def test_parts_and_finish_make_what_a_whole_run_makes(src: Path, tmp_path: Path) -> None:
    """A part commits nothing, whichever is first."""
    whole = run_conversion(request(src, tmp_path / "whole"))
    assert whole.closed
    for part in ("2/2", "1/2"):
        result = run_conversion(request(src, tmp_path / "dst", part=part))
        assert not result.closed
        assert not (tmp_path / "dst").exists()
    assert finish_conversion(tmp_path / "dst", verify=True).verification is not None
    assert tree(tmp_path / "dst") == tree(tmp_path / "whole")


def test_a_part_that_is_missing(src: Path, tmp_path: Path) -> None:
    run_conversion(request(src, tmp_path / "dst", part="1/2"))
    with pytest.raises(OutputExists, match="shards are not finished"):
        finish_conversion(tmp_path / "dst")
    assert not (tmp_path / "dst").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_no_shard_is_finished(src: Path, tmp_path: Path, overwrite: bool) -> None:
    """The former result is not taken for that of the parts, nor are they unknown."""
    dst = tmp_path / "dst"
    if overwrite:
        run_conversion(replace(request(src, dst), to="stacked"))
    before = tree(dst) if overwrite else {}
    run_conversion(replace(request(src, dst, part="1/2"), overwrite=overwrite))
    for shard in (tmp_path / "dst.streamconv-partial").glob("*.safetensors"):
        shard.unlink()
    with pytest.raises(OutputExists, match="shards are not finished") as caught:
        finish_conversion(dst)
    assert "--part 1/2, --part 2/2" in caught.value.hint
    assert (tree(dst) if dst.exists() else {}) == before


def test_the_parts_that_are_missing_are_named(src: Path, tmp_path: Path) -> None:
    """Also after a part in the middle; with them, it is finished."""
    dst = tmp_path / "dst"
    run_conversion(request(src, dst, part="2/3"))
    with pytest.raises(OutputExists) as error:
        finish_conversion(dst)
    named = "run the same command with --part 1/3, --part 3/3, then `streamconv finish` again"
    assert error.value.hint == named
    run_conversion(request(src, dst, part="3/3"))
    with pytest.raises(OutputExists) as error:
        finish_conversion(dst)
    assert "--part 1/3, then" in error.value.hint
    run_conversion(request(src, dst, part="1/3"))
    assert finish_conversion(dst).closed


# --- what `finish` may replace ------------------------------------------------------------------


def parts(src: Path, dst: Path, *, overwrite: bool, **options: Any) -> None:
    for part in ("1/2", "2/2"):
        run_conversion(replace(request(src, dst, part=part, **options), overwrite=overwrite))


def checkpoint(folder: Path, seed: int) -> dict[str, object]:
    """Write a checkpoint, all of whose files --overwrite may remove."""
    shutil.rmtree(folder, ignore_errors=True)
    tensors = two_shards(qwen_tensors(experts=2, seed=seed))
    return tree(write_checkpoint(folder, tensors, {"model_type": "qwen3_moe"}))


@pytest.mark.parametrize("former", [False, True])
def test_finish_replaces_only_what_a_part_has_listed(
    src: Path, tmp_path: Path, former: bool
) -> None:
    """Not a checkpoint that appeared after the last part, until a part was asked to replace it."""
    dst = tmp_path / "dst"
    if former:
        checkpoint(dst, seed=1)
    parts(src, dst, overwrite=True)
    later = checkpoint(dst, seed=2)
    for _ in range(2):
        with pytest.raises(OutputExists, match="not as it was when the last part began") as caught:
            finish_conversion(dst)
        assert tree(dst) == later
    assert "run a part again with --overwrite, then run `streamconv finish`" in caught.value.hint
    run_conversion(replace(request(src, dst, part="1/2"), overwrite=True))
    finish_conversion(dst)
    run_conversion(request(src, tmp_path / "right"))
    assert tree(dst) == tree(tmp_path / "right")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dst", "right", "src"]


@pytest.mark.parametrize("left", [False, True])
def test_finish_replaces_what_the_parts_have_listed(src: Path, tmp_path: Path, left: bool) -> None:
    """Or nothing, if that is gone."""
    dst = tmp_path / "dst"
    checkpoint(dst, seed=1)
    parts(src, dst, overwrite=True)
    if not left:
        shutil.rmtree(dst)
    finish_conversion(dst)
    run_conversion(request(src, tmp_path / "right"))
    assert tree(dst) == tree(tmp_path / "right")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dst", "right", "src"]


def test_hints_of_finish_name_no_option_that_it_lacks(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A target that is taken, another source, a full disk: each can be undone, and it finishes."""
    dst = tmp_path / "dst"
    parts(src, dst, overwrite=False)
    checkpoint(dst, seed=2)
    config = (src / "config.json").read_bytes()

    def refused() -> str:
        with pytest.raises(StreamconvError) as caught:
            finish_conversion(dst)
        words = "\n".join([caught.value.hint, *getattr(caught.value, "__notes__", ())])
        assert "--" not in words
        return words

    assert "move it elsewhere, and run `streamconv finish` again" in refused()
    shutil.rmtree(dst)
    (src / "config.json").write_bytes(config + b" ")
    assert "undo what has changed" in refused()
    (src / "config.json").write_bytes(config)
    with monkeypatch.context() as patch:
        patch.setattr(Files, "create_small", full_disk)
        words = refused()
    assert "make room on the disk, then run `streamconv finish` again" in words
    assert "shards are finished in" in words
    finish_conversion(dst)
    assert [path.name for path in tmp_path.iterdir() if path.name != "src"] == ["dst"]


def full_disk(self: Files, path: Path) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def test_a_part_cannot_be_verified(src: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="other parts may not be written") as caught:
        run_conversion(request(src, tmp_path / "dst", part="1/2", verify=True))
    assert "finish" in caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


def test_ranks_make_no_part(src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They share a whole conversion, and would make all of it."""
    monkeypatch.setattr(conversion, "rank", lambda: 0)
    with pytest.raises(UsageError, match="cannot make part 1 of 2: the ranks of torchrun share"):
        run_conversion(request(src, tmp_path / "dst", part="1/2"))


def test_nothing_to_finish(src: Path, tmp_path: Path) -> None:
    """There was no run, or it is finished."""
    with pytest.raises(IOFailed, match="there is no unfinished conversion"):
        finish_conversion(tmp_path / "dst")
    run_conversion(request(src, tmp_path / "dst"))
    with pytest.raises(OutputExists, match="it is finished already") as caught:
        finish_conversion(tmp_path / "dst")
    assert caught.value.hint == f"check it with `streamconv verify {tmp_path / 'dst'}`"
    with pytest.raises(OutputExists, match="it exists already"):
        finish_conversion(src)


def test_a_dcp_may_be_finished(src: Path, tmp_path: Path) -> None:
    """It has no manifest in a file of its own that tells."""
    run_conversion(request(src, tmp_path / "dst", format="dcp"))
    with pytest.raises(OutputExists, match="it exists already") as caught:
        finish_conversion(tmp_path / "dst")
    assert "finished already" in caught.value.hint
    assert f"streamconv verify {tmp_path / 'dst'}`" in caught.value.hint


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_without_parts_is_to_be_resumed(src: Path, tmp_path: Path, overwrite: bool) -> None:
    """It is not finished, whatever is at the target."""
    dst = tmp_path / "dst"
    if overwrite:
        run_conversion(request(src, dst))
    run_conversion(replace(request(src, dst, part="1/2"), overwrite=overwrite))
    (tmp_path / "dst.streamconv-partial" / "streamconv-journal-command.json").unlink()
    with pytest.raises(OutputExists, match="has to write its shards first") as caught:
        finish_conversion(dst)
    assert "--resume" in caught.value.hint


@pytest.mark.parametrize("overwrite", [False, True])
def test_another_process_finishes_first(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    """After this one has read the request: the result is not to be replaced, nor made again."""
    dst = tmp_path / "dst"
    if overwrite:
        shutil.copytree(src, dst)
    for part in ("1/2", "2/2"):
        run_conversion(replace(request(src, dst, part=part), overwrite=overwrite))
    load = journal_files.load_request

    def slowly(target: Path) -> tuple[bytes, str]:
        loaded = load(target)
        monkeypatch.setattr(journal_files, "load_request", load)
        finish_conversion(dst)
        return loaded

    monkeypatch.setattr(journal_files, "load_request", slowly)
    with pytest.raises(OutputExists, match="it is finished already") as caught:
        finish_conversion(dst)
    assert "verify" in caught.value.hint
    assert {path.name for path in tmp_path.iterdir()} == {"src", "dst"}


def test_what_workers_leave_is_given_back_before_files_are_hashed(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the blocks of --sha256 would be added to it."""
    calls: list[bool] = []
    name = "streamconv.sinks.open_folder.return_freed_memory"
    monkeypatch.setattr(name, lambda: calls.append(True))
    run_conversion(request(src, tmp_path / "plain"))
    assert not calls
    run_conversion(request(src, tmp_path / "hashed", sha256=True))
    assert calls == [True]
