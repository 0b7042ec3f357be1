"""The public functions: one call each from a location to a result."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Unpack

from streamconv.api_options import takes
from streamconv.options import (
    DEFAULT_JOBS,
    LazyOptions,
    Location,
    Options,
    Reading,
    check_jobs,
    check_prefixes,
)

if TYPE_CHECKING:
    from torch.nn import Module

    from streamconv.detection.detect import Detected
    from streamconv.execution.events import Event
    from streamconv.execution.result import Result
    from streamconv.lazy.checkpoint import LazyCheckpoint
    from streamconv.lazy.loading import Loaded
    from streamconv.planning.plan import Plan
    from streamconv.sources.base import Source
    from streamconv.verification.result import Verification, VerifyProgress, VerifyStarted
    from streamconv.verification.transformers_load import Loading


@takes(Reading)
def inspect(src: Location, **reading: Unpack[Reading]) -> "tuple[Source, Detected]":
    """Detect the family and the expert stacks of a checkpoint, from its headers.

    Args:
        src: Folder, hub repository (`hf://org/name@revision`) or URL that fsspec opens.
        {options}

    Returns:
        The source, closed, whose `checkpoint` lists the tensors and files; and the detected family,
        form, and layout of each expert stack. Its `refusals` say which experts cannot be
        converted, and why.

    Raises:
        UsageError: An option makes no sense.
        BadCheckpoint: A file is malformed or missing.
        PlanRefused: The checkpoint contradicts `source_layout`.
        IOFailed: Reading failed.
    """
    from streamconv.catalog.catalog import load_catalog
    from streamconv.detection.detect_all import detect_all
    from streamconv.sources.wrappers.open_with_template import open_with_template

    catalog = load_catalog(reading.get("family"))
    with open_with_template(src, catalog, reading, lenient=True) as source:
        check_prefixes(reading, source.checkpoint.format)
        return source, detect_all(source.checkpoint, catalog, reading.get("source_layout"))


@takes()
def check(src: Location) -> "Loading":
    """Check if transformers would load a checkpoint, on the meta device and from headers alone.

    Imports torch and transformers, which `pip install 'streamconv[torch]'` installs.

    Args:
        src: Folder, hub repository (`hf://org/name@revision`) or URL that fsspec opens.

    Returns:
        The missing, unexpected and mismatched keys. `is_clean` is True if there are none.

    Raises:
        BadCheckpoint: The checkpoint is malformed, or transformers does not accept its config.json.
        PlanRefused: torch or transformers is not installed, or transformers does not know the
            model type.
        IOFailed: Reading failed.
    """
    from streamconv.catalog.catalog import default_catalog
    from streamconv.sources.wrappers.open_with_template import open_with_template
    from streamconv.verification.transformers_load import check_loading

    with open_with_template(src, default_catalog(), {}) as source:
        return check_loading(source.checkpoint)


@takes(Options)
def plan(src: Location, *, to: str | None = None, **options: Unpack[Options]) -> "Plan":
    """Plan a conversion from headers alone; write nothing.

    Args:
        src: Folder, hub repository (`hf://org/name@revision`) or URL that fsspec opens.
        to: Form or layout of the output; `same` keeps those of `src`. Default: what `merge` makes
            of `src`.
        {options}

    Returns:
        The output shards with every tensor, and the memory that the conversion needs.

    Raises:
        UsageError: An option makes no sense.
        BadCheckpoint: The checkpoint is malformed, incomplete or contradicts itself.
        PlanRefused: This conversion is not possible, would change nothing, or needs more memory
            than is allowed.
        IOFailed: Reading failed.
    """
    from streamconv.catalog.catalog import load_catalog
    from streamconv.planning.build import build_plan
    from streamconv.sources.base import read_whole
    from streamconv.sources.wrappers.open_with_template import open_with_template

    catalog = load_catalog(options.get("family"))
    with open_with_template(src, catalog, options, casts=bool(options.get("dtype"))) as source:
        read = read_whole(source)
        return build_plan(source.checkpoint, catalog, to, options, read=read)


@takes(LazyOptions)
def open(  # noqa: A001 - called streamconv.open
    src: Location,
    to: str | None = None,
    *,
    framework: str = "pt",
    **options: Unpack[LazyOptions],
) -> "LazyCheckpoint":
    """Open a checkpoint in another layout without converting it. Reads headers alone.

    Args:
        src: Folder, hub repository (`hf://org/name@revision`) or URL that fsspec opens.
        to: Form or layout in which the tensors are seen. Default: as they are stored.
        framework: `pt` for tensors of torch, or `np` for arrays of numpy, which never imports torch
            and has unsigned integers for the dtypes that numpy lacks.
        {options}

    Returns:
        The checkpoint, a context manager with the methods of `safetensors.safe_open`. Its tensors
        are read where they are indexed.

    Raises:
        UsageError: An option makes no sense.
        BadCheckpoint: The checkpoint is malformed, incomplete or contradicts itself.
        PlanRefused: The conversion is impossible.
        IOFailed: Reading failed.
    """
    from streamconv.lazy.opening import open_checkpoint

    return open_checkpoint(src, to, framework, options)


@takes(LazyOptions)
def load(
    module: "Module",
    src: Location,
    to: str | None = None,
    *,
    strict: bool = True,
    **options: Unpack[LazyOptions],
) -> "Loaded":
    """Fill a module of torch from a checkpoint in another layout, without converting it.

    Args:
        module: Its parameters and buffers are filled one by one. Those on meta are replaced; of a
            DTensor only its own shard is read.
        src: Folder, hub repository (`hf://org/name@revision`) or URL that fsspec opens.
        to: Form or layout that the module has, such as `transformers`. Default: as it is stored.
        strict: True to refuse names that only the module or only the checkpoint has.
        {options}

    Returns:
        The missing and unexpected names, as `load_state_dict` lists them.

    Raises:
        UsageError: An option makes no sense, or a buffer on meta is in no checkpoint.
        BadCheckpoint: Names or shapes do not agree, and nothing was filled; or the checkpoint is
            malformed, incomplete or contradicts itself.
        PlanRefused: The conversion is impossible.
        IOFailed: Reading failed.
    """
    from streamconv.lazy.loading import load_module
    from streamconv.lazy.opening import open_checkpoint

    with open_checkpoint(src, to, "pt", options) as lazy:
        return load_module(module, lazy, strict=strict)


@takes(Options)
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

    Args:
        src: Folder, hub repository (`hf://org/name@revision`) or URL that fsspec opens.
        dst: Folder to write. It appears complete or not at all.
        to: Form or layout of every expert stack instead.
        overwrite: True to replace `dst` after its replacement is complete.
        resume: True to resume an earlier run of this conversion, if there was one.
        verify: True to verify the result against `src` before it is moved to `dst`.
        on_event: Called with each event of the run, in the calling thread.
        {options}

    Returns:
        The plan, the path of the output, time and memory, and the verification if any.

    Raises:
        StreamconvError: One of its subclasses, as for `convert`.
    """
    from streamconv.execution.conversion import run_conversion
    from streamconv.execution.request import ConversionRequest

    request = ConversionRequest(str(src), dst, to, overwrite, resume, verify, options)
    return run_conversion(request, on_event)


@takes(Options)
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
    """Split merged experts into one tensor for each expert, under their names on the hub.

    Args:
        src: Folder, hub repository (`hf://org/name@revision`) or URL that fsspec opens.
        dst: Folder to write. It appears complete or not at all.
        overwrite: True to replace `dst` after its replacement is complete.
        resume: True to resume an earlier run of this conversion, if there was one.
        verify: True to verify the result against `src` before it is moved to `dst`.
        on_event: Called with each event of the run, in the calling thread.
        {options}

    Returns:
        The plan, the path of the output, time and memory, and the verification if any.

    Raises:
        StreamconvError: One of its subclasses, as for `convert`.
    """
    from streamconv.execution.conversion import run_conversion
    from streamconv.execution.request import ConversionRequest
    from streamconv.planning.target import PER_EXPERT

    request = ConversionRequest(str(src), dst, PER_EXPERT, overwrite, resume, verify, options)
    return run_conversion(request, on_event)


@takes(Options)
def convert(
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
    """Convert a checkpoint to a form or layout, dtype, format or shard size, in a new folder.

    Args:
        src: Folder, hub repository (`hf://org/name@revision`) or URL that fsspec opens.
        dst: Folder to write. It appears complete or not at all.
        to: Form (`hub`, `transformers`, `mindspeed`), or a layout for every expert stack. Default:
            `same`, which keeps all layouts and names.
        overwrite: True to replace `dst` after its replacement is complete.
        resume: True to resume an earlier run of this conversion, if there was one. An error
            has a note if the run that it ended can be resumed.
        verify: True to verify the result against `src` before it is moved to `dst`.
        on_event: Called with each event of the run, in the calling thread.
        {options}

    Returns:
        The plan, the path of the output, time and memory, and the verification if any.

    Raises:
        UsageError: An option makes no sense.
        BadCheckpoint: `src` is malformed, incomplete or contradicts itself, or changed meanwhile.
        PlanRefused: This conversion is not possible, would change nothing, or needs more memory
            than is allowed.
        VerifyFailed: The result is not the conversion of `src`; `dst` is as it was.
        OutputExists: `dst` is not empty, or another run is writing it.
        NoSpace: The disk or a quota is full.
        IOFailed: Reading or writing failed.
    """
    from streamconv.catalog.families import SAME
    from streamconv.execution.conversion import run_conversion
    from streamconv.execution.request import ConversionRequest

    request = ConversionRequest(str(src), dst, to or SAME, overwrite, resume, verify, options)
    return run_conversion(request, on_event)


@takes(Reading)
def verify(
    src: Location,
    dst: Location | None = None,
    *,
    target_layout: str | None = None,
    sample: float | str = 1.0,
    sha256: bool = False,
    jobs: int | None = None,
    on_event: "Callable[[VerifyStarted | VerifyProgress], None] | None" = None,
    **reading: Unpack[Reading],
) -> "Verification":
    """Verify that `dst` is the conversion of `src`, bit for bit, whatever program made it.

    Args:
        src: Folder, hub repository (`hf://org/name@revision`) or URL that fsspec opens.
        dst: Checkpoint to verify. If it is missing, `src` is verified against its manifest.
        target_layout: Layout or form of `dst`, if `dst` does not record its own.
        sample: Fraction of each layer's experts and of the other tensors to compare, above 0 and
            at most 1, or text such as `5%`. They are chosen at random.
        sha256: True to compute the SHA-256 of each file of the checkpoint that is verified.
        jobs: Number of workers, from 1 to 1024. Default: 2.
        on_event: Called with the progress, in the calling thread.
        {options}

    Returns:
        The differences, what was not checked and why, and the checksums. `ok` is True if nothing
        differs; defects of the checkpoint that is verified are differences, too.

    Raises:
        UsageError: An option makes no sense.
        BadCheckpoint: `src` is malformed, incomplete or contradicts itself, or changed meanwhile.
        PlanRefused: Several layouts fit; name one with `source_layout` or `target_layout`.
        IOFailed: Reading failed.
    """
    from random import SystemRandom

    from streamconv.catalog.catalog import load_catalog
    from streamconv.system.resources import cores
    from streamconv.units import parse_share
    from streamconv.verification.run import VerifyOptions, run_verification
    from streamconv.verification.sides import Sample

    check_jobs(jobs)
    options = VerifyOptions(
        jobs=jobs or min(cores(), DEFAULT_JOBS),
        catalog=load_catalog(reading.get("family")),
        sample=Sample(parse_share(sample), SystemRandom()),
        sha256=sha256,
        reading=reading,
        target_layout=target_layout,
        on_event=on_event,
    )
    if dst is None:
        return run_verification(str(src), None, options)
    return run_verification(str(dst), str(src), options)


@takes()
def finish(
    dst: Location,
    *,
    verify: bool = False,
    on_event: "Callable[[Event | VerifyStarted | VerifyProgress], None] | None" = None,
) -> "Result":
    """Commit an output whose parts are all complete: copy other files, write index and manifest.

    Args:
        dst: Folder that was given to each run with `part`.
        verify: True to verify the result against its source before it is moved to `dst`.
        on_event: Called with each event of the run, in the calling thread.

    Returns:
        The plan, the path of the output, time and memory, and the verification if any.

    Raises:
        StreamconvError: One of its subclasses, as for `convert`. If a part is missing, the message
            names its shards.
    """
    from streamconv.execution.conversion import finish_conversion

    return finish_conversion(dst, verify=verify, on_event=on_event)
