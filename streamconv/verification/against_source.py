"""The comparison of an output with its source: every tensor, expert and file, bit for bit.

Tensors are compared under the names that the hub has for them, whatever the two forms call them. A
name that only one side has is a difference. Memory of each of `jobs` threads: two blocks of 4 MiB,
and one expert of one weight if its axes are in another order.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from streamconv.catalog.templates import EXPERT, Template
from streamconv.checkpoint.types import CONFIG, JOURNAL_PREFIX, PARTIAL_SUFFIX, OtherFile
from streamconv.detection.layer_filter import LayerFilter
from streamconv.sources.base import Source
from streamconv.system.cancellation import CancelToken
from streamconv.system.worker_threads import map_unordered
from streamconv.verification.compare import Comparer, Unequal
from streamconv.verification.config_file import (
    AS_IN_SOURCE,
    ExpectedConfig,
    config_differences,
)
from streamconv.verification.metadata_files import has_files, is_description
from streamconv.verification.regions import Region, whole
from streamconv.verification.result import Difference, VerifyEvent, VerifyProgress, VerifyStarted
from streamconv.verification.sides import EVERYTHING, Sample, Side, StackModule

FILE_BYTES = 2**18
"""Size of the blocks in which files without tensors are read."""


@dataclass(frozen=True, slots=True)
class _RegionPair:
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
class _FilePair:
    """A file without tensors, on both sides, with the same size."""

    source: OtherFile
    output: OtherFile


_Task = Difference | _RegionPair | _FilePair
"""A difference that names and shapes show already, or bytes to compare."""


def compare(
    source: Side,
    output: Side,
    *,
    jobs: int,
    cancel: CancelToken,
    config: ExpectedConfig | None = None,
    sample: Sample = EVERYTHING,
) -> Iterator[VerifyEvent]:
    """Compare `output` with the conversion of `source`.

    Args:
        source: The source, with the casts that the output records.
        output: The checkpoint to verify.
        jobs: Number of threads.
        cancel: Ends the comparison with Interrupted if it is set.
        config: What config.json has to say; None if it has to be the source's.
        sample: The part of the bytes that is compared.

    Yields:
        First VerifyStarted, then differences and progress in any order.

    Raises:
        IOFailed: Reading failed.
        BadCheckpoint: A file changed meanwhile.
    """
    checkpoint = output.source.checkpoint
    others = sum(other.size for other in checkpoint.others if not other.skip_reason)
    yield VerifyStarted(int(checkpoint.total_bytes * sample.share) + others)
    yield from map_unordered(
        _tasks(source, output, config, sample),
        jobs,
        lambda: _Worker(source.source, output.source),
        _Worker.carry_out,
        cancel,
    )


# --- what is to be compared --------------------------------------------------------------------


def _tasks(
    source: Side, output: Side, config: ExpectedConfig | None, sample: Sample
) -> Iterator[_Task]:
    layers = _layer_filter(source, output)
    yield from _modules(source, output, layers, sample)
    yield from _plain_tensors(source, output, layers, sample)
    if has_files(source.source) and has_files(output.source):
        yield from _files(source.source, output.source, config)
    else:
        yield from _recorded_config(source.source, output.source, config)


def _layer_filter(source: Side, output: Side) -> LayerFilter:
    """Return the filter that keeps the layers to which the output was cut."""
    record = output.source.checkpoint.record
    return LayerFilter.of(source.found.layer_lists, record.kept if record else None)


def _modules(source: Side, output: Side, layers: LayerFilter, sample: Sample) -> Iterator[_Task]:
    """Yield the tasks for all experts and for groups of tensors that are rearranged."""
    in_source, in_output = source.modules(), output.modules()
    for name in in_source.keys() - in_output.keys():
        if layers.keeps(name):
            contents = in_source[name].stack.contents
            yield Difference(name, f"is missing: the source has {contents} there")
    for name, module in in_output.items():
        if name in in_source and layers.keeps(name):
            yield from _module(name, in_source[name], module, sample)
        else:
            yield Difference(name, "is not in the source")


def _module(name: str, source: StackModule, output: StackModule, sample: Sample) -> Iterator[_Task]:
    """Yield the tasks for one layer, or for one group: expert by expert, all weights of each."""
    if source.sizes != output.sizes:
        yield Difference(name, f"has sizes {output.sizes}, the source {source.sizes}")
        return
    for weight in source.tensors.keys() - output.tensors.keys():
        yield Difference(f"{name}, {weight}", "is missing")
    weights = []
    for weight in output.tensors:
        if weight not in source.tensors:
            yield Difference(f"{name}, {weight}", "is not in the source")
            continue
        there, here = source.tensors[weight][0], output.tensors[weight][0]
        if there.dtype == here.dtype:
            weights.append(weight)
        else:
            yield Difference(here.name, f"is {here.dtype}, {there.name} is {there.dtype}")
    for expert in sample.experts(output.stack.sizes.get(EXPERT, 1)):
        for weight in weights:
            yield _expert(weight, expert, source, output)


def _expert(weight: str, expert: int, source: StackModule, output: StackModule) -> _Task:
    """Return the task for one expert of one weight."""
    template = output.template(weight)
    number = expert if EXPERT in template.axes else None
    there, here = source.region(weight, expert), output.region(weight, expert)
    if there is None or here is None or (there.bits < 8 and there.axes != here.axes):
        return Difference(
            output.tensors[weight][0].name,
            "cannot be compared: elements smaller than a byte are rearranged",
            number,
        )
    split, tokens = _projections(template, output.stack.row.naming.tokens, here)
    return _RegionPair(there, here, number, split, tokens)


def _projections(
    template: Template, namings: Mapping[str, tuple[str, ...]], region: Region
) -> tuple[str, tuple[str, ...]]:
    """Return the region's axis of projections and their names; no names if tensors have them."""
    axis = next((axis for axis in region.axes if axis in namings), "")
    return axis, () if axis in template.name_axes else namings.get(axis, ())


def _plain_tensors(
    source: Side, output: Side, layers: LayerFilter, sample: Sample
) -> Iterator[_Task]:
    """Yield the tasks for all other tensors, which a conversion copies."""
    in_source, in_output = source.plain(), output.plain()
    for hub_name in in_source.keys() - in_output.keys():
        if layers.keeps(hub_name):
            name = output.found.names.apply(hub_name)
            yield Difference(name, f"is missing: it is {in_source[hub_name].name} in the source")
    chosen = sample.of(list(in_output))
    for hub_name, here in in_output.items():
        there = in_source.get(hub_name)
        if there is None or not layers.keeps(hub_name):
            yield Difference(here.name, "is not in the source")
        elif (there.dtype, there.shape) != (here.dtype, here.shape):
            yield Difference(
                here.name,
                f"is {here.dtype} {list(here.shape)}, the source has {there.dtype} "
                f"{list(there.shape)}",
            )
        elif hub_name in chosen:
            yield _RegionPair(whole(there), whole(here))


def _recorded_config(
    source: Source, output: Source, config: ExpectedConfig | None
) -> Iterator[Difference]:
    """Yield how the config that a DCP records differs from what it has to say."""
    there, here = source.checkpoint, output.checkpoint
    if here.manifest and not here.config_text:
        expected = config or AS_IN_SOURCE
        texts = (json.dumps(there.config), json.dumps(here.config))
        yield from config_differences(*texts, expected, spaces=False)


def _files(source: Source, output: Source, config: ExpectedConfig | None) -> Iterator[_Task]:
    """Yield the tasks for files without tensors: the output has those that are copied, no more."""
    left_out = config.left_out if config else frozenset()
    in_source = {
        o.name: o for o in source.checkpoint.others if not o.skip_reason and o.name not in left_out
    }
    # a result that is still being built has its journals in it; one that is committed has none
    built = output.checkpoint.location.rstrip("/").endswith(PARTIAL_SUFFIX)
    in_output = {
        other.name: other
        for other in output.checkpoint.others
        if not is_description(other) and not (built and other.name.startswith(JOURNAL_PREFIX))
    }
    for name in in_source.keys() - in_output.keys():
        yield Difference(name, "is missing: the source has this file")
    for name, here in in_output.items():
        there = in_source.get(name)
        if there is None:
            reason = f" ({here.skip_reason})" if here.skip_reason else ""
            yield Difference(name, f"is not in the source{reason}")
        elif name == CONFIG and config and config.differs_from(source.checkpoint.config_text):
            was, text = (each.checkpoint.config_text.decode() for each in (source, output))
            yield from config_differences(was, text, config)
        elif here.size != there.size:
            yield Difference(name, f"has {here.size} bytes, the source's has {there.size}")
        else:
            yield _FilePair(there, here)


# --- comparing ---------------------------------------------------------------------------------


class _Worker:
    """The comparisons of one thread, and its memory."""

    def __init__(self, source: Source, output: Source) -> None:
        self._source = source
        self._output = output
        self._comparer = Comparer(source, output)
        self._buffers = [memoryview(bytearray(FILE_BYTES)) for _ in range(2)]

    def carry_out(self, task: _Task) -> Iterator[VerifyEvent]:
        """Compare what the task names; yield the differences, and the progress at its end."""
        if isinstance(task, Difference):
            yield task
        elif isinstance(task, _RegionPair):
            unequal = self._comparer.compare(task.source, task.output, task.split)
            if unequal is not None:
                yield from _differences(task, unequal)
            yield VerifyProgress(task.output.nbytes, task.output.runs[0].info.name)
        else:
            if not self._is_equal(task):
                yield Difference(task.output.name, "differs from the source's file of that name")
            yield VerifyProgress(task.output.size, task.output.name)

    def _is_equal(self, files: _FilePair) -> bool:
        """Return True if both files have the same bytes."""
        source_buffer, output_buffer = self._buffers
        position = 0
        while count := self._output.read_other(files.output, output_buffer, position):
            there = self._source.read_other(files.source, source_buffer, position)
            if source_buffer[:there] != output_buffer[:count]:
                return False
            position += count
        return position == files.source.size


def _differences(pair: _RegionPair, unequal: Unequal) -> Iterator[Difference]:
    """Yield a difference for each projection of an expert in which elements differ."""
    amount = f"{unequal.differing:,} of {unequal.of:,} elements"
    for position in unequal.positions or (0,):
        yield Difference(
            _tensor(pair.output, position),
            f"differs from {_tensor(pair.source, position)} of the source ({amount})",
            pair.expert,
            pair.tokens[position] if pair.tokens else "",
        )


def _tensor(region: Region, position: int) -> str:
    """Return the tensor that holds a position of the split axis; all do if there is only one."""
    names = list(dict.fromkeys(run.info.name for run in region.runs))
    return names[position if len(names) > 1 else 0]
