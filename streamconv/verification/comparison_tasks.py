"""The tasks of a comparison: the tensors, experts and files of an output, and those of its source.

If names, dtypes or shapes differ already, the task is that difference, and no bytes are compared.
"""

import heapq
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from streamconv.catalog.checkpoint_files import CONFIG
from streamconv.catalog.templates import EXPERT, Template
from streamconv.checkpoint.types import JOURNAL_PREFIX, PARTIAL_SUFFIX, OtherFile, TensorInfo
from streamconv.detection.layer_filter import LayerFilter
from streamconv.sources.base import Source
from streamconv.verification.config_file import config_differences, has_to_change
from streamconv.verification.expected_config import AS_IN_SOURCE, ExpectedConfig
from streamconv.verification.metadata_files import (
    files_beside,
    has_files,
    is_description,
    manifest_file,
    read_manifest,
)
from streamconv.verification.regions import Region, whole
from streamconv.verification.result import Difference
from streamconv.verification.sides import Sample, Side, StackModule, place


@dataclass(frozen=True, slots=True)
class RegionPair:
    """Two regions that must hold the same bits."""

    source: Region
    output: Region
    expert: int | None = None
    """Number of the expert, if the output's tensor holds several."""
    split: str = ""
    """The axis of the projections, if the output's tensor holds several."""
    tokens: tuple[str, ...] = ()
    """The names of these projections."""


@dataclass(frozen=True, slots=True)
class FilePair:
    """A file without tensors, on both sides, with the same size."""

    source: OtherFile
    output: OtherFile


Task = Difference | RegionPair | FilePair
"""A difference that names and shapes show already, or bytes to compare."""
Placed = tuple[tuple[str, int], Iterable[Task]]
"""Tasks, and the place of their bytes in the output: a file, and bytes from its start."""
MISSING = ("", 0)
"""The place of what the output does not have: before everything else."""


def comparison_tasks(
    source: Side, output: Side, config: ExpectedConfig | None, sample: Sample
) -> Iterator[Task]:
    """Yield the pairs that have to be compared, and the differences that are found on the way.

    Args:
        source: The source, with the casts that the output records.
        output: The checkpoint to verify.
        config: What config.json has to say; None if it has to be that of the source.
        sample: The part of the bytes that is compared.
    """
    layers = _layer_filter(source, output)
    modules = _modules(source, output, layers, sample)
    plain = _plain_tensors(source, output, layers, sample)
    # file by file: what lies together is read together, and a file is done before the next
    for _, tasks in heapq.merge(modules, plain, key=lambda placed: placed[0]):
        yield from tasks
    if has_files(source.source) and has_files(output.source):
        yield from _files(source.source, output.source, config)
    else:
        yield from _recorded_config(source.source, output.source, config)
        yield from _files_added_to_dcp(output.source)


def _layer_filter(source: Side, output: Side) -> LayerFilter:
    """Return the filter that keeps the layers to which the output was cut."""
    record = output.source.checkpoint.record
    return LayerFilter.of(source.found.layer_lists, record.kept if record else None)


def _modules(source: Side, output: Side, layers: LayerFilter, sample: Sample) -> Iterator[Placed]:
    """Yield the tasks for all experts and for groups of tensors that are rearranged, by place."""
    in_source, in_output = source.modules(), output.modules()
    for name in in_source.keys() - in_output.keys():
        if layers.keeps(name):
            contents = in_source[name].stack.contents
            yield MISSING, [Difference(name, f"is missing: the source has {contents} there")]
    for name, module in in_output.items():
        if name in in_source and layers.keeps(name):
            yield module.place, _module(name, in_source[name], module, sample)
        else:
            yield module.place, [Difference(name, "is not in the source")]


def _module(name: str, source: StackModule, output: StackModule, sample: Sample) -> Iterator[Task]:
    """Yield the tasks for one layer, or for one group: expert by expert, all weights of each."""
    if source.sizes != output.sizes:
        yield Difference(name, f"has sizes {output.sizes}, the source {source.sizes}")
        return
    pairs = {weight: _original(weight, source, output) for weight in output.tensors}
    for weight in source.tensors.keys() - pairs.values():
        yield Difference(f"{name}, {weight}", "is missing")
    weights = []
    for weight, original in pairs.items():
        if original is None:
            yield Difference(f"{name}, {weight}", "is not in the source")
            continue
        before, after = source.tensors[original][0], output.tensors[weight][0]
        if before.dtype == after.dtype:
            weights.append((original, weight))
        else:
            yield Difference(after.name, f"is {after.dtype}, {before.name} is {before.dtype}")
    for expert in sample.experts(output.stack.sizes.get(EXPERT, 1)):
        for original, weight in weights:
            yield _expert(original, weight, expert, source, output)


def _original(weight: str, source: StackModule, output: StackModule) -> str | None:
    """Return the weight of the source that a weight of the output is made from, or None.

    The two have different names if the source has one number for all experts, and the output has
    one for each.
    """
    if weight in source.tensors:
        return weight
    part = output.part(weight)
    return next((each for each in source.tensors if source.part(each) == part), None)


def _expert(
    original: str, weight: str, expert: int, source: StackModule, output: StackModule
) -> Task:
    """Return the task for one expert of one weight, which is `original` in the source."""
    template = output.template(weight)
    number = expert if EXPERT in template.axes else None
    before, after = source.region(original, expert), output.region(weight, expert)
    first = output.tensors[weight][0]
    if before is None or after is None or (before.bits < 8 and before.axes != after.axes):
        return Difference(
            first.name, "cannot be compared: elements smaller than a byte are rearranged", number
        )
    for axis in source.shared_axes(original) & ({*after.axes} - {*before.axes}):
        before = before.repeat(axis, output.stack.sizes[axis])
    if {*before.axes} != {*after.axes}:
        shape = list(source.tensors[original][0].shape)
        return Difference(first.name, f"is {list(first.shape)}, the source has {shape}", number)
    split, tokens = _projections(template, output.stack.row.naming.tokens, after)
    return RegionPair(before, after, number, split, tokens)


def _projections(
    template: Template, namings: Mapping[str, tuple[str, ...]], region: Region
) -> tuple[str, tuple[str, ...]]:
    """Return the region's axis of projections and their names; no names if tensors have them."""
    axis = next((axis for axis in region.axes if axis in namings), "")
    return axis, () if axis in template.name_axes else namings.get(axis, ())


def _plain_tensors(
    source: Side, output: Side, layers: LayerFilter, sample: Sample
) -> Iterator[Placed]:
    """Yield the tasks for all other tensors, which a conversion copies, by place."""
    in_source, in_output = source.plain(), output.plain()
    for hub_name in in_source.keys() - in_output.keys():
        if layers.keeps(hub_name):
            name = output.found.names.apply(hub_name)
            detail = f"is missing: it is {in_source[hub_name].name} in the source"
            yield MISSING, [Difference(name, detail)]
    chosen = sample.of(list(in_output))
    for hub_name, after in in_output.items():
        before = in_source.get(hub_name) if layers.keeps(hub_name) else None
        yield place(after), _plain_tensor(before, after, hub_name in chosen)


def _plain_tensor(before: TensorInfo | None, after: TensorInfo, is_chosen: bool) -> Iterator[Task]:
    """Yield the task for a tensor that is copied; none if the sample does not have it."""
    if before is None:
        yield Difference(after.name, "is not in the source")
    elif (before.dtype, before.shape) != (after.dtype, after.shape):
        yield Difference(
            after.name,
            f"is {after.dtype} {list(after.shape)}, the source has {before.dtype} "
            f"{list(before.shape)}",
        )
    elif is_chosen:
        yield RegionPair(whole(before), whole(after))


def _recorded_config(
    source: Source, output: Source, config: ExpectedConfig | None
) -> Iterator[Difference]:
    """Yield how the config that a DCP records differs from what it has to say."""
    before, after = source.checkpoint, output.checkpoint
    if after.manifest and not after.config_text:
        expected = config or AS_IN_SOURCE
        texts = (json.dumps(before.config), json.dumps(after.config))
        yield from config_differences(*texts, expected, spaces=False)


def _files_added_to_dcp(output: Source) -> Iterator[Difference]:
    """Yield the files next to those of a DCP that streamconv wrote; it writes no others there."""
    if has_files(output) or read_manifest(output) is None:
        return
    for other in files_beside(output):
        if not _is_journal(other, output):
            detail = f"is no file of the conversion: {manifest_file(output)} does not list it"
            yield Difference(other.name, detail)


def _is_journal(other: OtherFile, output: Source) -> bool:
    """Return True for a journal in a result that is still being built; a committed one has none."""
    is_built = output.checkpoint.location.rstrip("/").endswith(PARTIAL_SUFFIX)
    return is_built and other.name.startswith(JOURNAL_PREFIX)


def _files(source: Source, output: Source, config: ExpectedConfig | None) -> Iterator[Task]:
    """Yield the tasks for files without tensors: the output has those that are copied, no more."""
    left_out = config.left_out if config else frozenset()
    in_source = {
        o.name: o for o in source.checkpoint.others if not o.skip_reason and o.name not in left_out
    }
    in_output = {
        other.name: other
        for other in output.checkpoint.others
        if not is_description(other) and not _is_journal(other, output)
    }
    for name in in_source.keys() - in_output.keys():
        yield Difference(name, "is missing: the source has this file")
    for name, after in in_output.items():
        before = in_source.get(name)
        if before is None:
            reason = f" ({after.skip_reason})" if after.skip_reason else ""
            yield Difference(name, f"is not in the source{reason}")
        elif name == CONFIG and config and has_to_change(source.checkpoint.config_text, config):
            old, new = (each.checkpoint.config_text.decode() for each in (source, output))
            yield from config_differences(old, new, config)
        elif after.size != before.size:
            yield Difference(name, f"has {after.size} bytes, the source's has {before.size}")
        else:
            yield FilePair(before, after)
