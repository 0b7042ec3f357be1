"""`finish` and every other commit are killed before each change that they make, and run again.

What only reads leaves the disk as it was, so a kill there shows nothing more. The oracle is the
tree of an undisturbed run. After the next run, nothing of ours is next to it.
"""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faulty import CHANGING, DEATH, Site, Twin, in_a_child, with_files
from folders import qwen_tensors, tree, two_shards, write_checkpoint

import streamconv
from streamconv.errors import OutputExists

COMMIT = ("finish", "finish --overwrite", "--resume", "--overwrite", "--verify", "dcp", "preset")


@pytest.fixture(scope="module")
def src(memory: Path) -> Path:
    config = {"model_type": "qwen3_moe", "num_experts": 2}
    return write_checkpoint(memory / "src", two_shards(qwen_tensors(experts=2)), config)


def convert(src: Path, dst: Path, **options: Any) -> None:
    options = {"jobs": 1, "max_shard_size": 300, **options}
    if "preset" in options:
        streamconv.merge(src, dst, **options)
    else:
        streamconv.convert(src, dst, to="fused-transposed", **options)


def prepared(src: Path, place: Path, way: str) -> Path:
    """Make the folder `place` in which the last step of this way of converting is left."""
    dst = place / "dst"
    place.mkdir()
    if "overwrite" in way:
        dst.mkdir()
        (dst / "model.safetensors").write_bytes(b"former")
        (dst / "config.json").write_text("{}")
        dst.chmod(0o700)
    if way.startswith("finish"):
        for part in ("1/2", "2/2"):
            convert(src, dst, part=part, overwrite="overwrite" in way)
    if way == "--resume":
        in_a_child(Twin(60, DEATH), lambda: convert(src, dst))
    return dst


def options_of(way: str) -> dict[str, Any]:
    return {
        "--overwrite": {"overwrite": True},
        "--resume": {"resume": True},
        "--verify": {"verify": True},
        "dcp": {"format": "dcp"},
        "preset": {"preset": "mindspeed"},
    }.get(way, {})


def last_step(src: Path, dst: Path, way: str) -> None:
    if way.startswith("finish"):
        streamconv.finish(dst)
    else:
        convert(src, dst, **options_of(way))


def again(src: Path, dst: Path, way: str) -> None:
    """Run the same once more; one that was killed after all its work says that DST exists."""
    try:
        if way.startswith("finish"):
            streamconv.finish(dst)
        else:
            convert(src, dst, **{**options_of(way), "resume": True})
    except OutputExists as error:
        assert "not empty" in error.message or "finished already" in error.message


def plain(src: Path, dst: Path, way: str) -> None:
    """Go on with a plain run instead."""
    try:
        convert(src, dst, **{**options_of(way), "resume": True, "overwrite": "overwrite" in way})
    except OutputExists as error:
        assert "not empty" in error.message


def first_and_last(numbers: list[int], sites: list[Site]) -> list[int]:
    """Those of the operations that the same lines of the package make before and after others."""
    by_site: dict[Site, list[int]] = {}
    for number in numbers:
        by_site.setdefault(sites[number - 1], []).append(number)
    return sorted({each[end] for each in by_site.values() for end in (0, -1)})


@pytest.mark.parametrize("go_on", [again, plain])
@pytest.mark.parametrize("way", COMMIT)
def test_killed_at_each_operation_of_the_commit(
    src: Path, memory: Path, way: str, go_on: Callable[[Path, Path, str], None]
) -> None:
    """From the last shard on; the earlier ones are those of every conversion."""
    if go_on is plain and not way.startswith("finish"):
        pytest.skip("the same as running it again")
    ground = memory / f"{way} {go_on.__name__}"
    ground.mkdir()
    ready = ground / "ready"
    prepared(src, ready, way)
    undisturbed = ground / "undisturbed"
    shutil.copytree(ready, undisturbed)
    files = Twin()
    with_files(files, lambda: last_step(src, undisturbed / "dst", way))
    right = tree(undisturbed / "dst")
    mode = (undisturbed / "dst").stat().st_mode
    assert mode & 0o077 == 0 or "overwrite" not in way
    assert [path.name for path in undisturbed.iterdir()] == ["dst"]
    first = 1 if way.startswith("finish") else len(files.done) - files.done[::-1].index("_allocate")
    place = ground / "killed"
    changes = [at for at in range(first, len(files.done) + 1) if files.done[at - 1] in CHANGING]
    for at in first_and_last(changes, files.sites):
        shutil.copytree(ready, place)
        code = in_a_child(Twin(at, DEATH), lambda: last_step(src, place / "dst", way))
        assert code == -signal.SIGKILL
        with_files(Twin(), lambda: go_on(src, place / "dst", way))
        assert tree(place / "dst") == right, at
        assert (place / "dst").stat().st_mode == mode, at
        assert [path.name for path in place.iterdir()] == ["dst"], at
        shutil.rmtree(place)
    shutil.rmtree(ground)
