"""The public functions: one call each from a location to a result."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from streamconv.detection.detect import Detected, detect
from streamconv.errors import UsageError
from streamconv.execution.request import ConversionRequest, read_request
from streamconv.options import Location, Options, Reading, check_prefixes
from streamconv.planning.memory import DEFAULT_JOBS
from streamconv.planning.plan import Plan
from streamconv.planning.target import PER_EXPERT
from streamconv.sources.base import Source
from streamconv.system.resources import cores
from streamconv.verification.result import Verification

if TYPE_CHECKING:
    from streamconv.execution.executor import Event
    from streamconv.execution.pipeline import Result
    from streamconv.verification.result import VerifyProgress, VerifyStarted
    from streamconv.verification.transformers_load import Loading


def inspect(src: Location, **reading: Unpack[Reading]) -> tuple[Source, Detected]:
    """What is in a checkpoint: its tensors and files, its family and expert stacks.

    The source comes back closed; its `checkpoint` stays. Raises StreamconvError.
    """
    from streamconv.planning.build import register_families
    from streamconv.sources.wrappers.open_with_template import open_with_template

    register_families(reading)
    with open_with_template(src, reading) as source:
        check_prefixes(reading, source.checkpoint.format)
        return source, detect(source.checkpoint, reading.get("source_layout"))


def check(src: Location) -> "Loading":
    """Whether transformers would load a checkpoint: on the meta device, from headers alone.

    Imports torch and transformers. Raises StreamconvError; PlanRefused where transformers does not
    know the model type.
    """
    from streamconv.sources.wrappers.open_with_template import open_with_template
    from streamconv.verification.transformers_load import check_loading

    with open_with_template(src, {}) as source:
        return check_loading(source.checkpoint)


def plan(src: Location, *, to: str | None = None, **options: Unpack[Options]) -> Plan:
    """The plan of a conversion, from headers alone; `to` is what `merge` would do unless given.

    Raises StreamconvError.
    """
    from streamconv.planning.build import build_plan, register_families
    from streamconv.sources.wrappers.open_with_template import open_with_template

    register_families(options)
    with open_with_template(src, options, casts=bool(options.get("dtype"))) as source:
        return build_plan(source.checkpoint, to, options)


def merge(
    src: Location,
    dst: Location,
    *,
    to: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    verify: bool = False,
    on_event: "Callable[[Event | VerifyStarted | VerifyProgress], None] | None" = None,
    **options: Unpack[Options],
) -> "Result":
    """Merge the experts of each layer as the model's training framework expects them.

    `to` makes every stack that form or layout instead. Raises StreamconvError; see `convert`.
    """
    from streamconv.execution.pipeline import run_conversion

    return run_conversion(
        ConversionRequest(str(src), to, overwrite, options), dst, resume, verify, on_event
    )


def split(
    src: Location,
    dst: Location,
    *,
    overwrite: bool = False,
    resume: bool = False,
    verify: bool = False,
    on_event: "Callable[[Event | VerifyStarted | VerifyProgress], None] | None" = None,
    **options: Unpack[Options],
) -> "Result":
    """Split merged experts into one tensor each, under their names on the hub.

    Raises StreamconvError; see `convert`.
    """
    from streamconv.execution.pipeline import run_conversion

    return run_conversion(
        ConversionRequest(str(src), PER_EXPERT, overwrite, options), dst, resume, verify, on_event
    )


def convert(
    src: Location,
    dst: Location,
    *,
    to: str,
    overwrite: bool = False,
    resume: bool = False,
    verify: bool = False,
    on_event: "Callable[[Event | VerifyStarted | VerifyProgress], None] | None" = None,
    **options: Unpack[Options],
) -> "Result":
    """Convert the checkpoint at `src` to the form or layout `to`, into the folder `dst`.

    `dst` appears whole or not at all; one that is not empty is refused unless `overwrite`.
    `resume` goes on where an earlier run of the same conversion stopped, if one did; a note of
    the exception says whether that can be done.
    `on_event` hears what happens, from the calling thread. `verify` holds the result against the
    source before it takes its place, and raises VerifyFailed where it is not its conversion. Raises
    StreamconvError, whose subclasses tell bad input, a refused plan, a target that is there, and
    failing disks apart.
    """
    from streamconv.execution.pipeline import run_conversion

    return run_conversion(
        ConversionRequest(str(src), to, overwrite, options), dst, resume, verify, on_event
    )


def verify(
    src: Location,
    dst: Location | None = None,
    *,
    target_layout: str | None = None,
    sample: float = 1.0,
    sha256: bool = False,
    jobs: int | None = None,
    on_event: "Callable[[VerifyStarted | VerifyProgress], None] | None" = None,
    **reading: Unpack[Reading],
) -> Verification:
    """Whether `dst` is the true conversion of `src`, bit for bit; what is not so is in the result.

    With one location alone, whether that checkpoint's files are what its manifest says was
    written. `sample` is the share of each layer's experts, and of the other tensors, to look at;
    `sha256` adds that of each file of the checkpoint that is verified. `target_layout` is for a
    `dst` that does not say its own. Raises StreamconvError where `src` or a disk is at fault.
    """
    from random import SystemRandom

    from streamconv.planning.build import register_families
    from streamconv.verification.run import VerifyOptions, run_verification
    from streamconv.verification.sides import Sample

    if not 0 < sample <= 1:
        raise UsageError(f"a sample of {sample} is none", "give a share such as 5%, or 0.05")
    register_families(reading)
    asked = VerifyOptions(
        jobs=jobs or min(cores(), DEFAULT_JOBS),
        sample=Sample(sample, SystemRandom()),
        sha256=sha256,
        reading=reading,
        target_layout=target_layout,
        on_event=on_event,
    )
    what, against = (src, None) if dst is None else (dst, str(src))
    return run_verification(str(what), against, asked)


def finish(
    dst: Location,
    *,
    verify: bool = False,
    on_event: "Callable[[Event | VerifyStarted | VerifyProgress], None] | None" = None,
) -> "Result":
    """Close an output whose parts are all there (`part`): index, manifest, and its place.

    `verify` holds all of it against the source before. Raises StreamconvError, where a part is
    missing with the shards that are.
    """
    from streamconv.execution.pipeline import run_conversion
    from streamconv.sinks.journal_files import load_request

    command = read_request(*load_request(Path(dst)))
    return run_conversion(command, dst, True, verify, on_event, closing_only=True)
