"""A conversion from the options that ask for it to its result: open, plan, carry out, verify."""

import os
import sys
import time
from collections.abc import Callable
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from streamconv.casts import cast_checkpoint, parse_casting
from streamconv.command import Command, read_command
from streamconv.errors import StreamconvError, UsageError, VerifyFailed
from streamconv.families import HUB_NAMES, add_families
from streamconv.host import (
    cores,
    default_max_memory,
    peak_bytes,
    rank,
    ranks_on_host,
    resident_bytes,
)
from streamconv.keys import Prefixes
from streamconv.memory import DEFAULT_JOBS, IMPORT_BYTES, LINK_JOBS, Limits
from streamconv.options import (
    DEFAULT_SHARD_SIZE,
    Location,
    Options,
    Reading,
    check_prefixes,
    parse_layers,
    prefixes_of,
    preset_of,
)
from streamconv.plan import Plan, make_plan
from streamconv.recognise import recognise
from streamconv.records import Record
from streamconv.shards import Safetensors, ShardFormat
from streamconv.shares import Part, parse_part, share
from streamconv.sources import Source
from streamconv.sources.opening import is_url, opened
from streamconv.stop import Stop
from streamconv.target import PER_EXPERT, merge_target, resolve_target
from streamconv.units import parse_rate, parse_size
from streamconv.verify import Verification

if TYPE_CHECKING:
    from streamconv.execute import Event
    from streamconv.verify import Checked, Checking


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


def take_in(options: Reading) -> None:
    """The user's own families, before anything is read that could name them."""
    family = options.get("family")
    if family is not None:
        add_families(Path(family))


def plan_of(source: Source, to: str | None, options: Options) -> Plan:
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
    preset = preset_of(options)
    name = options.get("format")
    if name is None:
        name = "dcp" if preset and to not in (PER_EXPERT, HUB_NAMES.name) else "safetensors"
    check_prefixes(options, source.checkpoint.format, name)
    if name == "safetensors":
        return Safetensors
    if name != "dcp":
        raise UsageError(f"there is no format called {name!r}", "the formats are safetensors, dcp")
    from streamconv.chunks import Dcp

    prefixes = prefixes_of(options) or Prefixes()
    return lambda _: Dcp(prefixes, preset, source.checkpoint.config)


def _base_memory() -> int:
    """What this process will hold when a run begins, or has held already."""
    if rank() is not None:
        import torch.distributed  # noqa: F401 - that by which ranks meet, in a dry run too
    imported = "streamconv.execute" in sys.modules
    return max(peak_bytes(), resident_bytes() + (0 if imported else IMPORT_BYTES))


def run(
    command: Command,
    dst: Location,
    resume: bool,
    verify: bool,
    on_event: "Callable[[Event | Checking | Checked], None] | None",
    *,
    closing_only: bool = False,
) -> Result:
    """Carry a command out, or this process's part of it; or make no shard and only close it."""
    from streamconv.execute import Complete, Prepared, execute
    from streamconv.ranks import join
    from streamconv.sinks.folder import CheckpointFolder
    from streamconv.sources.casting import CastSource

    begin = time.monotonic()
    options = cast(Options, command.options)
    stop = Stop()
    team = None if closing_only or rank() is None else join(stop)
    asked = options.get("part")
    part = team.part if team else parse_part(asked) if asked else Part()
    commits = part.number == 1 if team else part.of == 1
    if verify and part.of > 1 and not team:
        raise UsageError(
            "a part is not verified by itself",
            f"`streamconv finish {dst} --verify` verifies the whole, when all parts are there",
        )
    # of parts that begin at any time each finds what the others have begun
    resume = resume or (part.number > 1 or team.restarted if team else part.of > 1)
    preset = preset_of(options)
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
    verification = None
    with team or nullcontext():
        try:
            take_in(options)
            casts = bool(options.get("dtype"))
            with opened(src, options, casts=casts, stop=stop) as source:
                planned = plan_of(source, command.to, options)
                src = _anywhere(command, source).src
                shards = share([shard.nbytes for shard in planned.shards], part)
                running = execute(
                    planned,
                    CastSource(_held_back(source, options, part.of if team else 1, stop)),
                    sink,
                    () if closing_only else shards,
                    commits=commits,
                    stop=stop,
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
                        if verify and isinstance(event, Complete):
                            jobs = planned.memory.jobs
                            found = _verification(src, event.folder, jobs, options, stop, on_event)
                            found.require(_not_moved(src, sink.place, event.folder))
                            verification = replace(found, place=str(sink.place))
        except BaseException as error:
            if sink.remains and not isinstance(error, VerifyFailed):
                error.add_note(sink.remains)
            if team is not None and (behind := team.failed(error)) is not error:
                raise behind from error
            raise
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


def _held_back(source: Source, options: Options, ranks: int, stop: Stop) -> Source:
    """The source, read at this rank's share of the rate that is allowed."""
    rate = options.get("max_rate")
    if rate is None:
        return source
    from streamconv.sources.throttle import Throttle, ThrottledSource

    return ThrottledSource(source, Throttle(max(parse_rate(rate) // ranks, 1), stop))


def _not_moved(src: str, place: Path, folder: Path) -> str:
    """What has become of a result that is not the source's conversion, and what to do."""
    return (
        f"{place} is as it was: the result was not moved there. `streamconv verify {src} "
        f"{folder}` shows all that differs; --overwrite without --resume makes it anew"
    )


def _verification(
    src: Location,
    dst: Location,
    jobs: int,
    options: Options,
    stop: Stop,
    on_event: "Callable[[Checking | Checked], None] | None",
) -> Verification:
    from streamconv.verify.run import Asked
    from streamconv.verify.run import run as run_verification

    asked = Asked(jobs, reading=options, hear=on_event, stop=stop)
    return run_verification(str(dst), str(src), asked)
