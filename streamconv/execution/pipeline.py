"""A conversion from the options that ask for it to its result: open, plan, carry out, verify."""

import os
import time
from collections.abc import Callable
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from streamconv.errors import StreamconvError, UsageError, VerifyFailed
from streamconv.execution.request import Command, read_command
from streamconv.options import Location, Options, preset_of
from streamconv.planning.build import plan_of, take_in
from streamconv.planning.partition import Part, parse_part, share
from streamconv.planning.plan import Plan
from streamconv.sources.base import Source
from streamconv.sources.open import is_url, opened
from streamconv.system.cancellation import Stop
from streamconv.system.resources import peak_bytes, rank
from streamconv.units import parse_rate
from streamconv.verification.result import Verification

if TYPE_CHECKING:
    from streamconv.execution.executor import Event
    from streamconv.execution.ranks import Ranks
    from streamconv.sinks.checkpoint_folder import CheckpointFolder
    from streamconv.verification.result import Checked, Checking
    from streamconv.verification.run import Asked


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
    from streamconv.execution.executor import Complete, Prepared, execute
    from streamconv.execution.ranks import join
    from streamconv.sources.wrappers.cast import CastSource
    from streamconv.verification.run import Asked

    begin = time.monotonic()
    options = cast(Options, command.options)
    stop = Stop()
    team = None if closing_only or rank() is None else join(stop)
    part, commits = _share_of(options, team)
    if verify and part.of > 1 and not team:
        raise UsageError(
            "a part is not verified by itself",
            f"`streamconv finish {dst} --verify` verifies the whole, when all parts are there",
        )
    # of parts that begin at any time each finds what the others have begun
    resume = resume or (part.number > 1 or team.restarted if team else part.of > 1)
    sink = _sink(command, dst, part, resume=resume)
    verification = None
    with team or nullcontext():
        try:
            take_in(options)
            src = _begun_with(command.src, dst) if resume else command.src
            casts = bool(options.get("dtype"))
            with opened(src, options, casts=casts, stop=stop) as source:
                plan = plan_of(source.checkpoint, command.to, options)
                command = _anywhere(command, source)
                remembers = part.of > 1 or source.checkpoint.revision is not None
                shards = share([shard.nbytes for shard in plan.shards], part)
                running = execute(
                    plan,
                    CastSource(_held_back(source, options, part.of if team else 1, stop)),
                    sink,
                    () if closing_only else shards,
                    commits=commits,
                    stop=stop,
                )
                with closing(running) as events:
                    for event in events:
                        if remembers and isinstance(event, Prepared):
                            sink.remember(command.to_json())
                        if team is not None:
                            team(event)
                        if on_event is not None:
                            on_event(event)
                        if verify and isinstance(event, Complete):
                            asked = Asked(
                                plan.memory.jobs, reading=options, hear=on_event, stop=stop
                            )
                            verification = _verified(event.folder, command.src, sink.place, asked)
        except BaseException as error:
            if sink.remains and not isinstance(error, VerifyFailed):
                error.add_note(sink.remains)
            if team is not None and (behind := team.failed(error)) is not error:
                raise behind from error
            raise
    seconds = time.monotonic() - begin
    closed = commits or team is not None
    return Result(plan, sink.place, seconds, peak_bytes(), verification, part, closed)


def _share_of(options: Options, team: "Ranks | None") -> tuple[Part, bool]:
    """The part of the conversion that this process does, and whether it closes the output."""
    if team is not None:
        return team.part, team.part.number == 1
    asked = options.get("part")
    part = parse_part(asked) if asked else Part()
    return part, part.of == 1


def _sink(command: Command, dst: Location, part: Part, *, resume: bool) -> "CheckpointFolder":
    from streamconv.sinks.checkpoint_folder import CheckpointFolder

    options = cast(Options, command.options)
    preset = preset_of(options)
    return CheckpointFolder(
        Path(dst),
        overwrite=command.overwrite,
        resume=resume,
        modes=(preset.folder_mode, preset.file_mode) if preset else None,
        part=part,
        sha256=options.get("sha256", False),
    )


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
    from streamconv.sinks.journal_files import remembered

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
    from streamconv.sources.wrappers.rate_limit import Throttle, ThrottledSource

    return ThrottledSource(source, Throttle(max(parse_rate(rate) // ranks, 1), stop))


def _verified(folder: Path, src: str, place: Path, asked: "Asked") -> Verification:
    """What comes of holding a result in `folder` against its source, before it goes to `place`.

    Raises VerifyFailed where it is not its conversion.
    """
    from streamconv.verification.run import run as run_verification

    verification = run_verification(str(folder), src, asked)
    same = ", with the same --template," if asked.reading.get("template") else ""
    verification.require(
        f"{place} is as it was: the result was not moved there. `streamconv verify {src} "
        f"{folder}`{same} shows all that differs; --overwrite without --resume makes it anew"
    )
    return replace(verification, place=str(place))
