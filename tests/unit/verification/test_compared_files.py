"""Which bytes of which shard have been compared, by the events of a whole verification."""

from collections import Counter
from pathlib import Path

import pytest
from folders import read_shard, write_checkpoint
from fused_by_hand import CONFIG, fused, source_tensors, write_pair

from streamconv import FileVerified, VerifyProgress, VerifyStarted, verify

SHARDS = ("model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors")


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A source, and its conversion in two shards: of layer 1, and of everything else."""
    src, _ = write_pair(tmp_path)
    tensors = fused(source_tensors())
    first = {name: each for name, each in tensors.items() if ".layers.1." in name}
    rest = {name: each for name, each in tensors.items() if name not in first}
    shards = dict(zip(SHARDS, (first, rest), strict=True))
    return src, write_checkpoint(tmp_path / "shards", shards, CONFIG)


def tensor_bytes(dst: Path, shard: str) -> int:
    return sum(len(data) for _, _, data in read_shard(dst / shard)[0].values())


def events_of(
    src: Path, dst: Path, target_layout: str | None = "fused", **options: object
) -> list[object]:
    events: list[object] = []
    verify(src, dst, target_layout=target_layout, on_event=events.append, **options)  # type: ignore[arg-type]
    return events


@pytest.mark.parametrize("jobs", [1, 3])
def test_every_file_is_named_once(pair: tuple[Path, Path], jobs: int) -> None:
    """With all of its bytes, and after the last progress in it."""
    src, dst = pair
    events = events_of(src, dst, jobs=jobs)
    assert isinstance(events[0], VerifyStarted)
    assert events[0].shards == SHARDS
    named = [each for each in events if isinstance(each, FileVerified)]
    expected = {shard: tensor_bytes(dst, shard) for shard in SHARDS}
    expected["config.json"] = (dst / "config.json").stat().st_size
    assert {each.name: each.nbytes for each in named} == expected
    assert all(each.nbytes == each.total for each in named)
    assert len(named) == len(expected)
    seen = Counter[str]()
    for event in events:
        if isinstance(event, VerifyProgress):
            seen[event.file] += event.nbytes
        elif isinstance(event, FileVerified):
            assert seen[event.name] == event.total


def test_files_are_compared_one_after_the_other(pair: tuple[Path, Path]) -> None:
    """Experts and other tensors of a file before those of the next."""
    events = events_of(*pair, jobs=1)
    files = [each.file for each in events if isinstance(each, VerifyProgress)]
    assert list(dict.fromkeys(files)) == [*SHARDS, "config.json"]
    assert files == sorted(files, key=[*SHARDS, "config.json"].index)


def test_a_sample_leaves_some_of_each(pair: tuple[Path, Path]) -> None:
    src, dst = pair
    named = [e for e in events_of(src, dst, sample=0.3) if isinstance(e, FileVerified)]
    parts = {each.name: (each.nbytes, each.total) for each in named if each.name in SHARDS}
    assert parts.keys() == set(SHARDS)
    for shard, (done, total) in parts.items():
        assert total == tensor_bytes(dst, shard)
        assert done < total


def test_what_is_not_in_the_source_is_left(tmp_path: Path) -> None:
    """A tensor without counterpart cannot be compared: its file is compared in part."""
    src, _ = write_pair(tmp_path)
    tensors = {**fused(source_tensors()), "more": ("U8", (2,), b"ab")}
    dst = write_checkpoint(tmp_path / "more", {"model.safetensors": tensors}, CONFIG, False)
    (found,) = (
        e for e in events_of(src, dst) if isinstance(e, FileVerified) and e.name != "config.json"
    )
    assert found.total - found.nbytes == 2


def test_alone(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """Against its manifest, every file is named with its size."""
    from streamconv import merge

    merge(pair[0], tmp_path / "merged", max_shard_size=500)
    events: list[object] = []
    verify(tmp_path / "merged", on_event=events.append)
    named = {each.name: each.nbytes for each in events if isinstance(each, FileVerified)}
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "merged").iterdir()}
    del sizes["streamconv.json"]  # it has the digests of the others, and nobody has its own
    assert named == sizes


def test_an_empty_shard_is_not_named(tmp_path: Path) -> None:
    """It has no bytes that could be compared."""
    empty = ("U8", (0, 4), b"")
    files = {"a.safetensors": {"a": ("U8", (3,), b"abc")}, "b.safetensors": {"b": empty}}
    dst = write_checkpoint(tmp_path / "empty", files, {})
    names = [e.name for e in events_of(dst, dst, None) if isinstance(e, FileVerified)]
    assert names.count("a.safetensors") == 1
    assert "b.safetensors" not in names
