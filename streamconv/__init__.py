"""streamconv: MoE checkpoints from one expert layout to another, streamed.

    source = open_source(src)                           headers only: no tensor data is read
    stored = cast_checkpoint(source.checkpoint, casting) as it will be read
    found = recognise(stored)                           its family, its expert stacks
    target = resolve_target(found, "fused", why)        a layout for each stack, and names
    plan = make_plan(source.checkpoint, found, target)  every output byte has its place
    for event in execute(plan, source, sink):           bytes are moved, nothing is decided
        ...                                             the result appears whole, at the end

The functions below do that in one call: `inspect`, `plan`, `merge`, `split`, `convert`.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack, cast

from streamconv.casts import cast_checkpoint, parse_casting
from streamconv.chunks import Dcp
from streamconv.command import Command, read_command
from streamconv.errors import (
    BadCheckpoint,
    Interrupted,
    IOFailed,
    NoSpace,
    OutputExists,
    PlanRefused,
    StreamconvError,
    UsageError,
    VerifyFailed,
)
from streamconv.families import HUB_NAMES, add_families
from streamconv.host import (
    cores,
    default_max_memory,
    peak_bytes,
    ranks_on_host,
    resident_bytes,
)
from streamconv.keys import Prefixes, Preset, find_preset
from streamconv.memory import DEFAULT_JOBS, IMPORT_BYTES, LINK_JOBS, Limits
from streamconv.plan import Plan, make_plan
from streamconv.recognise import Recognised, recognise
from streamconv.records import Record
from streamconv.shards import Safetensors, ShardFormat
from streamconv.shares import Part, parse_part, share
from streamconv.sources import Source
from streamconv.sources.opening import is_url, open_source, open_template
from streamconv.target import PER_EXPERT, merge_target, resolve_target
from streamconv.units import parse_rate, parse_size
from streamconv.verify import Verification

if TYPE_CHECKING:
    from streamconv.execute import Event
    from streamconv.loading import Loading
    from streamconv.verify import Checked, Checking

__version__ = "0.1.0"
__all__ = [
    "BadCheckpoint",
    "IOFailed",
    "Interrupted",
    "NoSpace",
    "Options",
    "OutputExists",
    "Plan",
    "PlanRefused",
    "Reading",
    "Recognised",
    "Result",
    "StreamconvError",
    "UsageError",
    "Verification",
    "VerifyFailed",
    "check",
    "convert",
    "finish",
    "inspect",
    "merge",
    "plan",
    "split",
    "verify",
]

DEFAULT_SHARD_SIZE = "4GB"

Location = str | PathLike[str]
"""A folder, a repository of the hub (`hf://org/name@revision`), or a URL that fsspec opens."""


class Reading(TypedDict, total=False):
    """How a source is to be understood, where it does not say so itself."""

    source_layout: str | None
    """The layout or form that it has (`--from`)."""
    preset: str | None
    """A training framework whose DCP is read or written, such as `mindspeed`."""
    hf_prefix: str | None
    """What names begin with outside of a DCP whose keys begin with `dcp_prefix`."""
    dcp_prefix: str | None
    family: str | PathLike[str] | None
    """A file of families, layouts and namings besides those of the table, for this process."""
    template: Location | None
    """The hub checkpoint that a DCP was trained from: its config, its other files, its names."""
    fill_from_template: bool
    """Whether to take from there what the DCP lacks."""


class Options(Reading, total=False):
    """What every conversion takes besides source and target."""

    max_shard_size: int | str
    """Bytes, or text such as `4GB` or `4GiB`; a larger tensor gets a shard of its own."""
    max_memory: int | str | None
    """What the whole process may hold; what the host has free unless given."""
    jobs: int | None
    """Workers."""
    part: str | None
    """`2/4`: only the second of four parts, which `finish` puts together when all are done."""
    max_rate: int | str | None
    """Bytes a second that are read at most, or text such as `200MB/s`."""
    layers: str | None
    """Only these layers, as `0:2`, and what belongs to no layer."""
    format: str | None
    """What the output is written in: `safetensors`, or `dcp` for torch.distributed.checkpoint."""
    dtype: str | None
    """`bf16`, `fp16` or `fp32`: what floating tensors become, routers and norms excepted."""
    cast_all: bool
    """Whether `dtype` is for routers, their biases and norms as well."""
    dequantize: str | None
    """What block-scaled FP8 weights become, their scales used up."""
    pass_through: bool
    """Whether experts that cannot be converted stay as they are, instead of being refused."""
    sha256: bool
    """Whether the manifest has the SHA-256 of each file too, for which they are read once more."""


@dataclass(frozen=True, slots=True)
class Result:
    """A conversion that is done."""

    plan: Plan
    place: Path
    seconds: float
    peak_memory: int
    """Bytes that the process held at most, since it was started."""
    verification: Verification | None = None
    """What comes out of holding the result against its source, where that was asked for."""
    part: Part = Part()  # noqa: RUF009 - frozen
    """Which part of the conversion this process has done."""
    closed: bool = True
    """Whether the output stands at its place; else other parts, and then `finish`, are to come."""


def inspect(src: Location, **reading: Unpack[Reading]) -> tuple[Source, Recognised]:
    """What is in a checkpoint: its tensors and files, its family and expert stacks.

    The source comes back closed; its `checkpoint` stays. Raises StreamconvError.
    """
    _take_in(reading)
    with _opened(src, reading) as source:
        return source, recognise(source.checkpoint, reading.get("source_layout"))


def check(src: Location) -> "Loading":
    """Whether transformers would load a checkpoint: on the meta device, from headers alone.

    Imports torch and transformers. Raises StreamconvError; PlanRefused where transformers does not
    know the model type.
    """
    from streamconv.loading import check_loading

    with _opened(src, {}) as source:
        return check_loading(source.checkpoint)


def plan(src: Location, *, to: str | None = None, **options: Unpack[Options]) -> Plan:
    """The plan of a conversion, from headers alone; `to` is what `merge` would do unless given.

    Raises StreamconvError.
    """
    _take_in(options)
    with _opened(src, options, casts=bool(options.get("dtype"))) as source:
        return _plan(source, to, options)


def merge(
    src: Location,
    dst: Location,
    *,
    layout: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    verify: bool = False,
    on_event: "Callable[[Event | Checking | Checked], None] | None" = None,
    **options: Unpack[Options],
) -> Result:
    """Merge the experts of each layer as the model's training framework expects them.

    `layout` makes every stack that instead. Raises StreamconvError; see `convert`.
    """
    return _run(Command(str(src), layout, overwrite, options), dst, resume, verify, on_event)


def split(
    src: Location,
    dst: Location,
    *,
    overwrite: bool = False,
    resume: bool = False,
    verify: bool = False,
    on_event: "Callable[[Event | Checking | Checked], None] | None" = None,
    **options: Unpack[Options],
) -> Result:
    """Split merged experts into one tensor each, under their names on the hub.

    Raises StreamconvError; see `convert`.
    """
    return _run(Command(str(src), PER_EXPERT, overwrite, options), dst, resume, verify, on_event)


def convert(
    src: Location,
    dst: Location,
    *,
    to: str,
    overwrite: bool = False,
    resume: bool = False,
    verify: bool = False,
    on_event: "Callable[[Event | Checking | Checked], None] | None" = None,
    **options: Unpack[Options],
) -> Result:
    """Convert the checkpoint at `src` to the form or layout `to`, into the folder `dst`.

    `dst` appears whole or not at all; one that is not empty is refused unless `overwrite`.
    `resume` goes on where an earlier run of the same conversion stopped, if one did; a note of
    the exception says whether that can be done.
    `on_event` hears what happens, from the calling thread. `verify` holds the result against the
    source when it is there, and raises VerifyFailed where it is not its conversion. Raises
    StreamconvError, whose subclasses tell bad input, a refused plan, a target that is there, and
    failing disks apart.
    """
    return _run(Command(str(src), to, overwrite, options), dst, resume, verify, on_event)


def verify(
    src: Location,
    dst: Location | None = None,
    *,
    target_layout: str | None = None,
    sample: float = 1.0,
    sha256: bool = False,
    jobs: int | None = None,
    on_event: "Callable[[Checking | Checked], None] | None" = None,
    **reading: Unpack[Reading],
) -> Verification:
    """Whether `dst` is the true conversion of `src`, bit for bit; what is not so is in the result.

    With one location alone, whether that checkpoint's files are what its manifest says was
    written. `sample` is the share of each layer's experts, and of the other tensors, to look at;
    `sha256` adds that of each file of the checkpoint that is verified. `target_layout` is for a
    `dst` that does not say its own. Raises StreamconvError where `src` or a disk is at fault.
    """
    from random import SystemRandom

    from streamconv.verify.conversion import Sample
    from streamconv.verify.run import Asked, run

    if not 0 < sample <= 1:
        raise UsageError(f"a sample of {sample} is none", "give a share such as 5%, or 0.05")
    _take_in(reading)
    asked = Asked(
        jobs=jobs or min(cores(), DEFAULT_JOBS),
        sample=Sample(sample, SystemRandom()),
        sha256=sha256,
        prefixes=_prefixes(reading),
        source_layout=reading.get("source_layout"),
        target_layout=target_layout,
        hear=on_event,
    )
    return run(str(src), None, asked) if dst is None else run(str(dst), str(src), asked)


def finish(
    dst: Location, *, on_event: "Callable[[Event | Checking | Checked], None] | None" = None
) -> Result:
    """Close an output whose parts are all there (`part`): index, manifest, and its place.

    Raises StreamconvError, where a part is missing with the shards that are.
    """
    from streamconv.sinks.folder import remembered

    command = read_command(*remembered(Path(dst)))
    return _run(command, dst, True, False, on_event, closing_only=True)


def parse_layers(text: str) -> range:
    """The layers meant by `0:2` (0 and 1), `:2` or `3`. Raises UsageError."""
    begin, colon, end = text.partition(":")
    try:
        first = int(begin or 0) if colon else int(begin)
        last = (int(end) if end else 10**9) if colon else first + 1
    except ValueError:
        first = last = -1
    if not 0 <= first < last:
        raise UsageError(f"{text!r} is no range of layers", "write 0:2 for the layers 0 and 1")
    return range(first, last)


@contextmanager
def _opened(src: Location, options: Reading, *, casts: bool = False) -> Iterator[Source]:
    template = options.get("template")
    if options.get("fill_from_template") and template is None:
        raise UsageError("there is no template to fill from", "name the hub checkpoint: --template")
    source = open_source(str(src), _prefixes(options))
    try:
        if template is not None:
            source = open_template(
                source,
                str(template),
                fill=options.get("fill_from_template", False),
                stated=options.get("source_layout"),
                casts=casts,
            )
        yield source
    finally:
        source.close()


def _take_in(options: Reading) -> None:
    """The user's own families, before anything is read that could name them."""
    family = options.get("family")
    if family is not None:
        add_families(Path(family))


def _plan(source: Source, to: str | None, options: Options) -> Plan:
    casting = parse_casting(
        options.get("dtype"), options.get("dequantize"), options.get("cast_all", False)
    )
    pass_through = options.get("pass_through", False)
    found = recognise(
        cast_checkpoint(source.checkpoint, casting),
        options.get("source_layout"),
        pass_through=pass_through,
    )
    asked, why = merge_target(found) if to is None else (to, "as asked")
    max_memory, layers = options.get("max_memory"), options.get("layers")
    jobs = options.get("jobs")
    if jobs is not None and jobs < 1:
        raise UsageError(f"{jobs} workers cannot do anything", "give at least 1")
    beside = ranks_on_host()
    here = max(cores() // beside, 1)
    jobs = jobs or (LINK_JOBS if source.checkpoint.remote else min(here, DEFAULT_JOBS))
    return make_plan(
        source.checkpoint,
        found,
        resolve_target(found, asked, why, pass_through=pass_through),
        max_shard_bytes=parse_size(options.get("max_shard_size", DEFAULT_SHARD_SIZE)),
        limits=Limits(
            base=_base_memory(),
            jobs=jobs,
            allowed=parse_size(max_memory) if max_memory else default_max_memory(beside),
        ),
        layers=parse_layers(layers) if layers else None,
        written=_written(source, to, options),
        casting=casting,
    )


def _written(source: Source, to: str | None, options: Options) -> Callable[[Record], ShardFormat]:
    """The format of the output; a preset means DCP unless the target is the hub's layout."""
    preset = _preset(options)
    name = options.get("format")
    if name is None:
        name = "dcp" if preset and to not in (PER_EXPERT, HUB_NAMES.name) else "safetensors"
    if name == "safetensors":
        return Safetensors
    if name != "dcp":
        raise UsageError(f"there is no format called {name!r}", "the formats are safetensors, dcp")
    prefixes = _prefixes(options) or Prefixes()
    return lambda _: Dcp(prefixes, preset, source.checkpoint.config)


def _preset(options: Reading) -> Preset | None:
    name = options.get("preset")
    return find_preset(name) if name else None


def _prefixes(options: Reading) -> Prefixes | None:
    """What the user says of keys; None where nothing is said."""
    preset = _preset(options)
    hf, dcp = options.get("hf_prefix"), options.get("dcp_prefix")
    if hf is None and dcp is None and preset is None:
        return None
    return Prefixes(hf or "", (preset.dcp_prefix if preset else "") if dcp is None else dcp)


def _base_memory() -> int:
    """What this process will hold when a run begins, or has held already."""
    imported = "streamconv.execute" in sys.modules
    return max(peak_bytes(), resident_bytes() + (0 if imported else IMPORT_BYTES))


def _run(
    command: Command,
    dst: Location,
    resume: bool,
    verify: bool,
    on_event: "Callable[[Event | Checking | Checked], None] | None",
    *,
    closing_only: bool = False,
) -> Result:
    """Carry a command out, or this process's part of it; or make no shard and only close it."""
    from streamconv import ranks
    from streamconv.execute import Prepared, execute
    from streamconv.sinks.folder import CheckpointFolder
    from streamconv.sources.casting import CastSource

    begin = time.monotonic()
    options = cast(Options, command.options)
    if verify and options.get("template") is not None:
        raise UsageError("--verify does not know of templates", "leave out one of them")
    team = ranks.join() if ranks.launched() and not closing_only else None
    asked = options.get("part")
    part = team.part if team else parse_part(asked) if asked else Part()
    commits = part.number == 1 if team else part.of == 1
    # of parts that begin at any time each finds what the others have begun
    resume = resume or (part.number > 1 or team.restarted if team else part.of > 1)
    _take_in(options)
    preset = _preset(options)
    modes = (preset.folder_mode, preset.file_mode) if preset else None
    sink = CheckpointFolder(
        Path(dst),
        overwrite=command.overwrite,
        resume=resume,
        modes=modes,
        part=part,
        sha256=options.get("sha256", False),
    )
    src = _begun_with(command.src, dst) if resume else command.src
    with team or nullcontext():
        try:
            with _opened(src, options, casts=bool(options.get("dtype"))) as source:
                planned = _plan(source, command.to, options)
                src = _anywhere(command, source).src
                shards = share([shard.nbytes for shard in planned.shards], part)
                running = execute(
                    planned,
                    CastSource(_held_back(source, options, part.of if team else 1)),
                    sink,
                    () if closing_only else shards,
                    commits=commits,
                )
                with closing(running) as events:
                    for event in events:
                        pinned = source.checkpoint.revision is not None
                        if isinstance(event, Prepared) and (part.of > 1 or pinned):
                            sink.remember(_anywhere(command, source).to_json())
                        if team is not None:
                            team(event)
                        if on_event is not None:
                            on_event(event)
        except BaseException as error:
            if sink.remains:
                error.add_note(sink.remains)
            if team is not None and (behind := team.failed(error)) is not error:
                raise behind from error
            raise
    verification = None
    if verify and commits:
        jobs = planned.memory.jobs
        verification = _verification(src, sink.place, jobs, options, on_event)
        verification.require(f"it stands at {sink.place}; `streamconv verify` shows what differs")
    seconds = time.monotonic() - begin
    closed = commits or team is not None
    return Result(planned, sink.place, seconds, peak_bytes(), verification, part, closed)


def _anywhere(command: Command, source: Source) -> Command:
    """The command as it means the same in any folder, and wherever a branch goes."""
    location, revision = source.checkpoint.location, source.checkpoint.revision
    src = location if is_url(location) else os.path.abspath(location)
    if revision:
        src = f"{location.partition('@')[0].rstrip('/')}@{revision}"
    family = command.options.get("family")
    own = {} if family is None else {"family": os.path.abspath(family)}
    template = command.options.get("template")
    if template is not None:
        own["template"] = str(template) if is_url(str(template)) else os.path.abspath(template)
    return replace(command, src=src, options={**command.options, **own})


def _begun_with(src: str, dst: Location) -> str:
    """The source of the run that is gone on with, at the commit that it was begun with."""
    from streamconv.sinks.folder import remembered

    with suppress(StreamconvError):
        begun = read_command(*remembered(Path(dst))).src
        if is_url(src) and begun.rpartition("@")[0] == src.rstrip("/").removesuffix("@main"):
            return begun
    return src


def _held_back(source: Source, options: Options, ranks: int) -> Source:
    """The source, read at this rank's share of the rate that is allowed."""
    rate = options.get("max_rate")
    if rate is None:
        return source
    from streamconv.sources.throttle import Throttle, ThrottledSource

    return ThrottledSource(source, Throttle(max(parse_rate(rate) // ranks, 1)))


def _verification(
    src: Location,
    dst: Location,
    jobs: int,
    options: Options,
    on_event: "Callable[[Checking | Checked], None] | None",
) -> Verification:
    from streamconv.verify.run import Asked, run

    asked = Asked(
        jobs,
        prefixes=_prefixes(options),
        source_layout=options.get("source_layout"),
        hear=on_event,
    )
    return run(str(dst), str(src), asked)
