"""A conversion from the options that ask for it to its result: open, plan, carry out, verify."""

import os
import time
from collections.abc import Callable
from contextlib import closing, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from streamconv.catalog.catalog import load_catalog
from streamconv.errors import StreamconvError, UsageError, VerifyFailed
from streamconv.execution.request import ConversionRequest, read_request
from streamconv.execution.result import Result
from streamconv.options import Location, Options, preset_of
from streamconv.planning.build import build_plan
from streamconv.planning.partition import Partition, assign_shards, parse_partition
from streamconv.sources.base import Source
from streamconv.sources.open import is_url
from streamconv.sources.wrappers.open_with_template import open_with_template
from streamconv.system.cancellation import CancelToken
from streamconv.system.launcher import rank
from streamconv.system.resources import peak_bytes
from streamconv.units import parse_rate
from streamconv.verification.result import Verification

if TYPE_CHECKING:
    from streamconv.execution.events import Event
    from streamconv.execution.ranks import RankGroup
    from streamconv.sinks.checkpoint_folder import CheckpointFolder
    from streamconv.verification.result import VerifyProgress, VerifyStarted
    from streamconv.verification.run import VerifyOptions


def run_conversion(
    command: ConversionRequest,
    dst: Location,
    resume: bool,
    verify: bool,
    on_event: "Callable[[Event | VerifyStarted | VerifyProgress], None] | None",
    *,
    closing_only: bool = False,
) -> Result:
    """Carry a command out, or this process's part of it; or make no shard and only close it."""
    from streamconv.execution.events import Completed
    from streamconv.execution.executor import execute
    from streamconv.execution.ranks import connect
    from streamconv.sources.wrappers.cast import CastSource
    from streamconv.verification.run import VerifyOptions

    begin = time.monotonic()
    options = cast(Options, command.options)
    cancel = CancelToken()
    ranks = None if closing_only or rank() is None else connect(cancel)
    part, commits = _share_of(options, ranks)
    if verify and part.of > 1 and not ranks:
        raise UsageError(
            "a part is not verified by itself",
            f"`streamconv finish {dst} --verify` verifies the whole, when all parts are there",
        )
    # of parts that begin at any time each finds what the others have begun
    resume = resume or (part.number > 1 or ranks.restarted if ranks else part.of > 1)
    sink = _sink(command, dst, part, resume=resume)
    verification = None
    with ranks or nullcontext():
        try:
            catalog = load_catalog(options.get("family"))
            src = _pinned_source(command.src, dst) if resume else command.src
            casts = bool(options.get("dtype"))
            with open_with_template(src, catalog, options, casts=casts, cancel=cancel) as source:
                plan = build_plan(source.checkpoint, catalog, command.to, options)
                command = _with_absolute_paths(command, source)
                remembers = part.of > 1 or source.checkpoint.revision is not None
                shards = assign_shards([shard.nbytes for shard in plan.shards], part)
                running = execute(
                    plan,
                    CastSource(_rate_limited(source, options, part.of if ranks else 1, cancel)),
                    sink,
                    () if closing_only else shards,
                    commits=commits,
                    request=command.to_json() if remembers else None,
                    cancel=cancel,
                )
                with closing(running) as events:
                    for event in events:
                        if ranks is not None:
                            ranks(event)
                        if on_event is not None:
                            on_event(event)
                        if verify and isinstance(event, Completed):
                            asked = VerifyOptions(
                                plan.memory.jobs,
                                catalog,
                                reading=options,
                                on_event=on_event,
                                cancel=cancel,
                            )
                            verification = _verified(event.folder, command.src, sink.target, asked)
        except BaseException as error:
            if sink.leftover_note and not isinstance(error, VerifyFailed):
                error.add_note(sink.leftover_note)
            if ranks is not None and (behind := ranks.failed(error)) is not error:
                raise behind from error
            raise
    seconds = time.monotonic() - begin
    closed = commits or ranks is not None
    return Result(plan, sink.target, seconds, peak_bytes(), verification, part, closed)


def _share_of(options: Options, ranks: "RankGroup | None") -> tuple[Partition, bool]:
    """The part of the conversion that this process does, and whether it closes the output."""
    if ranks is not None:
        return ranks.part, ranks.part.number == 1
    asked = options.get("part")
    part = parse_partition(asked) if asked else Partition()
    return part, part.of == 1


def _sink(
    command: ConversionRequest, dst: Location, part: Partition, *, resume: bool
) -> "CheckpointFolder":
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


def _with_absolute_paths(command: ConversionRequest, source: Source) -> ConversionRequest:
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


def _pinned_source(src: str, dst: Location) -> str:
    """The source of the run that is gone on with, at the commit that it was begun with."""
    from streamconv.sinks.journal_files import load_request

    with suppress(StreamconvError):
        begun = read_request(*load_request(Path(dst))).src
        if is_url(src) and begun.rpartition("@")[0] == src.rstrip("/").removesuffix("@main"):
            return begun
    return src


def _rate_limited(source: Source, options: Options, ranks: int, cancel: CancelToken) -> Source:
    """The source, read at this rank's share of the rate that is allowed."""
    rate = options.get("max_rate")
    if rate is None:
        return source
    from streamconv.sources.wrappers.rate_limit import Throttle, ThrottledSource

    return ThrottledSource(source, Throttle(max(parse_rate(rate) // ranks, 1), cancel))


def _verified(folder: Path, src: str, place: Path, asked: "VerifyOptions") -> Verification:
    """What comes of holding a result in `folder` against its source, before it goes to `target`.

    Raises VerifyFailed where it is not its conversion.
    """
    from streamconv.verification.run import run_verification

    verification = run_verification(str(folder), src, asked)
    same = ", with the same --template," if asked.reading.get("template") else ""
    verification.require(
        f"{place} is as it was: the result was not moved there. `streamconv verify {src} "
        f"{folder}`{same} shows all that differs; --overwrite without --resume makes it anew"
    )
    return replace(verification, path=str(place))
