"""The four ways to run a conversion: whole, a part, the rest of parts, and what each refuses."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from folders import qwen_tensors, tree, two_shards, write_checkpoint

from streamconv.errors import IOFailed, OutputExists, UsageError
from streamconv.execution.conversion import finish_conversion, run_conversion
from streamconv.execution.request import ConversionRequest
from streamconv.sinks import journal_files


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


def test_a_part_cannot_be_verified(src: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="other parts may not be written") as caught:
        run_conversion(request(src, tmp_path / "dst", part="1/2", verify=True))
    assert "finish" in caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


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
