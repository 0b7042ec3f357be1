"""An output held against its source: every tensor and expert, every other file, bit for bit.

Tensors are compared under the names that the hub has for them, whatever the two forms call them;
a name that only one side has is a difference. Memory: for each of `jobs` threads one expert of
one weight where it is transposed, and two blocks of 4 MiB.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from streamconv.catalog.templates import EXPERT, Template
from streamconv.checkpoint.types import OtherFile
from streamconv.detection.layer_filter import LayerFilter
from streamconv.detection.stacks import Module, Stack
from streamconv.sources.base import Source
from streamconv.system.cancellation import CancelToken
from streamconv.system.worker_threads import map_unordered
from streamconv.verification.compare import Comparer, Unequal
from streamconv.verification.metadata_files import has_files, is_description
from streamconv.verification.regions import Region, expert_region, whole
from streamconv.verification.result import Difference, VerifyEvent, VerifyProgress, VerifyStarted
from streamconv.verification.sides import EVERYTHING, Sample, Side

FILE_BYTES = 2**18
"""What is read at once of files that hold no tensors."""


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two regions that have to hold the same bits."""

    source: Region
    output: Region
    expert: int | None = None
    """Where the output's tensor holds several."""
    split: str = ""
    """The axis of the projections, and what they are called."""
    tokens: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Files:
    """A file without tensors, on both sides."""

    source: OtherFile
    output: OtherFile


_Task = Difference | _Pair | _Files


def compare(
    source: Side, output: Side, *, jobs: int, cancel: CancelToken, sample: Sample = EVERYTHING
) -> Iterator[VerifyEvent]:
    """What differs in `output` from the conversion of `source`, and what has been looked at.

    Raises IOFailed where reading fails, BadCheckpoint where a file changes meanwhile.
    """
    checkpoint = output.source.checkpoint
    others = sum(other.size for other in checkpoint.others if not other.skip_reason)
    total = int(checkpoint.total_bytes * sample.share) + others

    yield VerifyStarted(total)
    yield from map_unordered(
        _tasks(source, output, sample),
        jobs,
        lambda: _Worker(source.source, output.source),
        _Worker.look_at,
        cancel,
    )


def _tasks(source: Side, output: Side, sample: Sample) -> Iterator[_Task]:
    wanted = _layer_filter(source, output).keeps
    theirs, ours = source.modules(), output.modules()
    for what in filter(wanted, theirs.keys() - ours.keys()):
        held = theirs[what][0].contents
        yield Difference(what, f"is missing: the source has {held} there")
    for what, (stack, module) in ours.items():
        if what in theirs and wanted(what):
            yield from _module(what, *theirs[what], stack, module, sample)
        else:
            yield Difference(what, "is not in the source")
    yield from _plain(source, output, sample)
    if has_files(source.source) and has_files(output.source):
        yield from _files(source.source, output.source)


def _layer_filter(source: Side, output: Side) -> LayerFilter:
    """Return the filter that keeps the layers to which the output was cut."""
    record = output.source.checkpoint.record
    return LayerFilter.of(source.found.stacks, record.kept if record else None)


def _module(
    what: str, their_stack: Stack, theirs: Module, our_stack: Stack, ours: Module, sample: Sample
) -> Iterator[_Task]:
    """The experts of one layer or one group, those of each weight side by side."""
    sizes = [{a: n for a, n in stack.sizes.items() if n != 1} for stack in (their_stack, our_stack)]
    if sizes[0] != sizes[1]:
        yield Difference(what, f"has sizes {sizes[1]}, the source {sizes[0]}")
        return
    for weight in theirs.tensors.keys() ^ ours.tensors.keys():
        fact = "is not in the source" if weight in ours.tensors else "is missing"
        yield Difference(f"{what}, {weight}", fact)
    weights = [weight for weight in ours.tensors if weight in theirs.tensors]
    for weight in list(weights):
        one, other = theirs.tensors[weight][0], ours.tensors[weight][0]
        if one.dtype != other.dtype:
            yield Difference(other.name, f"is {other.dtype}, {one.name} is {one.dtype}")
            weights.remove(weight)
    for expert in sample.experts(our_stack.sizes.get(EXPERT, 1)):
        for weight in weights:
            yield _pair(weight, their_stack, theirs, our_stack, ours, expert)


def _pair(
    weight: str, their_stack: Stack, theirs: Module, our_stack: Stack, ours: Module, expert: int
) -> _Task:
    """One expert of one weight on both sides."""
    template = our_stack.row.layout.templates[weight]
    one, other = (
        expert_region(
            stack.row.layout.templates[weight],
            module.tensors[weight],
            stack.sizes,
            expert,
            stack.row.layout.elements_before(weight, stack.sizes),
        )
        for stack, module in ((their_stack, theirs), (our_stack, ours))
    )
    number = expert if EXPERT in template.axes else None
    if one is None or other is None or (one.bits < 8 and one.axes != other.axes):
        name = ours.tensors[weight][0].name
        return Difference(name, "has elements of less than a byte where they are moved", number)
    split, tokens = _split(template, our_stack.row.naming.tokens, other)
    return _Pair(one, other, number, split, tokens)


def _split(
    template: Template, namings: Mapping[str, tuple[str, ...]], region: Region
) -> tuple[str, tuple[str, ...]]:
    """The axis of a region whose positions have names, and these; none where they are in it."""
    axis = next((axis for axis in region.axes if axis in namings), "")
    return axis, () if axis in template.name_axes else namings.get(axis, ())


def _plain(source: Side, output: Side, sample: Sample) -> Iterator[_Task]:
    """The tensors that are no expert's."""
    theirs, ours = source.plain(), output.plain()
    wanted = _layer_filter(source, output).keeps
    for hub_name in theirs.keys() - ours.keys():
        if wanted(hub_name):
            name = output.found.names.apply(hub_name)
            yield Difference(name, f"is missing: it is {theirs[hub_name].name} in the source")
    chosen = sample.of(list(ours))
    for hub_name, info in ours.items():
        there = theirs.get(hub_name)
        if there is None or not wanted(hub_name):
            yield Difference(info.name, "is not in the source")
        elif (there.dtype, there.shape) != (info.dtype, info.shape):
            yield Difference(
                info.name,
                f"is {info.dtype} {list(info.shape)}, the source has {there.dtype} "
                f"{list(there.shape)}",
            )
        elif hub_name in chosen:
            yield _Pair(whole(there), whole(info))


def _files(source: Source, output: Source) -> Iterator[_Task]:
    """The files without tensors: those of the source that travel along, and nothing else."""
    theirs = {o.name: o for o in source.checkpoint.others if not o.skip_reason}
    ours = {o.name: o for o in output.checkpoint.others if not is_description(o)}
    for name in theirs.keys() - ours.keys():
        yield Difference(name, "is missing: the source has this file")
    for name, other in ours.items():
        if name not in theirs:
            fact = f" ({other.skip_reason})" if other.skip_reason else ""
            yield Difference(name, f"is not in the source{fact}")
        elif other.size != theirs[name].size:
            yield Difference(name, f"has {other.size} bytes, the source's has {theirs[name].size}")
        else:
            yield _Files(theirs[name], other)


class _Worker:
    """One thread's memory."""

    def __init__(self, source: Source, output: Source) -> None:
        self._source = source
        self._output = output
        self._comparer = Comparer(source, output)
        self._buffers = [memoryview(bytearray(FILE_BYTES)) for _ in range(2)]

    def look_at(self, task: _Task) -> Iterator[VerifyEvent]:
        if isinstance(task, Difference):
            yield task
        elif isinstance(task, _Pair):
            unequal = self._comparer.compare(task.source, task.output, task.split)
            if unequal is not None:
                yield from _described(task, unequal)
            yield VerifyProgress(task.output.nbytes, task.output.runs[0].info.name)
        else:
            if not self._same(task):
                yield Difference(task.output.name, "differs from the source's file of that name")
            yield VerifyProgress(task.output.size, task.output.name)

    def _same(self, files: _Files) -> bool:
        """Whether two files have the same bytes."""
        one, other = self._buffers
        position = 0
        while count := self._output.read_other(files.output, other, position):
            there = self._source.read_other(files.source, one, position)
            if one[:there] != other[:count]:
                return False
            position += count
        return position == files.source.size


def _described(pair: _Pair, unequal: Unequal) -> Iterator[Difference]:
    """A difference for each projection of an expert in which there is one."""
    amount = f"{unequal.differing:,} of {unequal.of:,} elements"
    for position in unequal.positions or (0,):
        yield Difference(
            _tensor(pair.output, position),
            f"differs from {_tensor(pair.source, position)} of the source ({amount})",
            pair.expert,
            pair.tokens[position] if pair.tokens else "",
        )


def _tensor(region: Region, position: int) -> str:
    """The tensor that holds a position of the split axis: its own, or the only one there is."""
    names = list(dict.fromkeys(run.info.name for run in region.runs))
    return names[position if len(names) > 1 else 0]
