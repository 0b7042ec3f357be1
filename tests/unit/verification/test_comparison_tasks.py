"""The tasks of a comparison: pairs of equal bytes, or differences that names and shapes show."""

from typing import Any

import pytest
from folders import Tensors
from fused_by_hand import CONFIG, EXPERTS, fused, source_tensors
from memory_source import MemorySource

from streamconv.catalog.catalog import default_catalog
from streamconv.detection.detect import detect
from streamconv.planning.compared_regions import compared_regions
from streamconv.planning.steps import make_steps
from streamconv.planning.target import resolve_target
from streamconv.verification.comparison_tasks import FilePair, RegionPair, comparison_tasks
from streamconv.verification.result import Difference
from streamconv.verification.sides import EVERYTHING, Side


def side(tensors: Tensors, layout: str | None = None, **others: bytes) -> Side:
    """A checkpoint in memory, detected."""
    source = MemorySource(tensors, others, config=CONFIG)
    return Side(source, detect(source.checkpoint, default_catalog(), layout))


def tasks_of(source: Side, output: Side) -> list[Any]:
    return list(comparison_tasks(source, output, None, EVERYTHING))


def bytes_of(side: Side, region: Any) -> bytes:
    """The bytes of a region, run by run."""
    contents = side.source._data  # type: ignore[attr-defined]
    runs = ((contents[run.info.name], run.start, run.nbytes) for run in region.runs)
    return b"".join(data[start : start + nbytes] for data, start, nbytes in runs)


def test_every_byte_is_in_one_pair() -> None:
    """Experts one by one, whatever tensors they are in, and the rest tensor by tensor."""
    source, output = side(source_tensors()), side(fused(source_tensors()), "fused")
    found = tasks_of(source, output)
    assert all(isinstance(task, RegionPair) for task in found)
    for task in found:
        assert bytes_of(source, task.source) == bytes_of(output, task.output)
    assert sum(task.output.nbytes for task in found) == output.source.checkpoint.total_bytes
    experts = [task for task in found if task.expert is not None]
    assert {task.expert for task in experts} == set(range(EXPERTS))
    assert {task.tokens for task in experts} == {("gate_proj", "up_proj"), ()}


def test_tasks_are_in_the_order_of_the_output() -> None:
    """By the first bytes of each layer's experts, and of each other tensor."""
    found = tasks_of(side(source_tensors()), side(fused(source_tensors()), "fused"))
    first: dict[str, int] = {}
    for task in found:
        info = task.output.runs[0].info
        first.setdefault(info.name.partition(".experts.")[0], info.offset)
    assert list(first.values()) == sorted(first.values())
    assert len(first) == 11


def changed(change: Any) -> list[Any]:
    """The tasks if something is changed in the output."""
    tensors = fused(source_tensors())
    change(tensors)
    return tasks_of(side(source_tensors()), side(tensors, "fused"))


def replace(name: str, dtype: str, *shape: int) -> Any:
    nbytes = 2 if dtype == "BF16" else 4
    for extent in shape:
        nbytes *= extent
    return lambda tensors: tensors.update({name: (dtype, shape, bytes(nbytes))})


@pytest.mark.parametrize(
    ("change", "subject", "detail"),
    [
        (
            lambda tensors: tensors.pop("model.norm.weight"),
            "model.norm.weight",
            "is missing: it is model.norm.weight in the source",
        ),
        (replace("model.more", "BF16", 2), "model.more", "is not in the source"),
        (
            replace("model.norm.weight", "BF16", 2),
            "model.norm.weight",
            "is BF16 [2], the source has BF16 [4]",
        ),
        (
            replace("model.norm.weight", "F32", 4),
            "model.norm.weight",
            "is F32 [4], the source has BF16 [4]",
        ),
    ],
)
def test_what_names_and_shapes_show(change: Any, subject: str, detail: str) -> None:
    """Is a difference, and the bytes of that tensor are not compared."""
    found = changed(change)
    differences = [task for task in found if isinstance(task, Difference)]
    assert len(differences) == 1
    assert differences[0].subject == subject
    assert differences[0].detail.startswith(detail)
    names = {run.info.name for task in found if task not in differences for run in task.output.runs}
    assert subject not in names


def test_files_without_tensors() -> None:
    """Are compared if they have one size; others are differences."""
    source = side(source_tensors(), None, same=b"abc", longer=b"abcd", gone=b"a")
    output = side(fused(source_tensors()), "fused", same=b"abd", longer=b"abc", new=b"")
    found = [task for task in tasks_of(source, output) if not isinstance(task, RegionPair)]
    pairs = [task.output.name for task in found if isinstance(task, FilePair)]
    assert pairs == ["same"]
    differences = {task.subject: task.detail for task in found if isinstance(task, Difference)}
    assert differences == {
        "longer": "has 3 bytes, the source's has 4",
        "gone": "is missing: the source has this file",
        "new": "is not in the source",
    }


@pytest.mark.parametrize("target", ["fused", "fused-transposed", "stacked", "per-expert"])
@pytest.mark.parametrize("layout", ["per-expert", "fused"])
def test_the_plan_knows_how_many_regions_there_are(layout: str, target: str) -> None:
    """And how large they are, without knowing the tasks, as their memory is projected."""
    tensors = source_tensors() if layout == "per-expert" else fused(source_tensors())
    source = side(tensors, layout)
    resolved = resolve_target(source.found, target, "asked")
    steps = make_steps(source.found, resolved, None)
    projected = compared_regions(source.found, resolved, steps)
    found = tasks_of(source, source)
    assert projected.count == len(found)
    sizes: dict[bool, list[int]] = {True: [], False: []}
    for task in found:
        is_converted = layout != target and ".experts." in task.source.runs[0].info.name
        sizes[is_converted].append(task.source.nbytes)
    assert projected.converted == tuple(sorted(sizes[True], reverse=True))
    assert projected.others == tuple(sorted(sizes[False], reverse=True))
