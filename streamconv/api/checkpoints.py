"""The public functions that read checkpoints and write none."""

from typing import TYPE_CHECKING, Unpack

from streamconv.api.option_docs import takes
from streamconv.options import (
    LazyOptions,
    Location,
    Reading,
    check_jobs,
    check_prefixes,
)

if TYPE_CHECKING:
    from torch.nn import Module

    from streamconv.api.events import OnEvent
    from streamconv.api.inspection import Inspection
    from streamconv.lazy.checkpoint import LazyCheckpoint
    from streamconv.lazy.loading import Loaded
    from streamconv.verification.result import Verification
    from streamconv.verification.transformers_load import Loading


@takes(Reading)
def inspect(src: Location, **reading: Unpack[Reading]) -> "Inspection":
    """Detect the family and the expert stacks of a checkpoint, from its headers.

    Args:
        src: {source}
        {options}

    Returns:
        The tensors and files, the detected family and form, and the layout of each expert stack.
        Its `refusals` say which experts cannot be converted, and why.

    Raises:
        UsageError: An option makes no sense.
        BadCheckpoint: A file is malformed or missing.
        PlanRefused: The checkpoint contradicts `source_layout`.
        IOFailed: Reading failed.
    """
    from streamconv.api.inspection import Inspection
    from streamconv.catalog.catalog import load_catalog
    from streamconv.detection.detect_all import detect_all
    from streamconv.sources.wrappers.open_with_template import open_with_template

    catalog = load_catalog(reading.get("family"))
    with open_with_template(src, catalog, reading, lenient=True) as source:
        check_prefixes(reading, source.checkpoint.format)
        found = detect_all(source.checkpoint, catalog, reading.get("source_layout"))
        return Inspection(source.checkpoint, found)


@takes()
def check(src: Location) -> "Loading":
    """Check if transformers would load a checkpoint, on the meta device and from headers alone.

    Imports torch and transformers, which `pip install 'streamconv[torch]'` installs.

    Args:
        src: {source}

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
        src: {source}
        to: Form or layout in which the tensors are seen. Default: as they are stored.
        framework: `pt` for tensors of torch, or `np` for arrays of numpy, which never imports torch
            and has unsigned integers for the dtypes that numpy lacks.
        {options}

    Returns:
        The checkpoint, a context manager with the methods of `safetensors.safe_open`. Its tensors
        are read where they are indexed.

    Raises:
        {reading_errors}
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
        module: Its parameters and buffers are filled one by one. Those on meta are replaced. Only
            the local shard of a DTensor is read.
        src: {source}
        to: Form or layout that the module has, such as `transformers`. Default: as it is stored.
        strict: True to refuse names that only the module or only the checkpoint has.
        {options}

    Returns:
        The missing and unexpected names, as `load_state_dict` lists them.

    Raises:
        UsageError: An option makes no sense, or a buffer on meta is in no checkpoint.
        BadCheckpoint: Names or shapes differ, in which case nothing was filled; or the checkpoint
            is malformed, incomplete or contradicts itself.
        PlanRefused: The conversion is impossible.
        IOFailed: Reading failed.
    """
    from streamconv.lazy.opening import open_checkpoint
    from streamconv.system.extras import require_extra

    require_extra("fill a module of torch", "torch", ("torch",))
    from streamconv.lazy.loading import check_module, load_module

    check_module(module)
    with open_checkpoint(src, to, "pt", options) as lazy:
        return load_module(module, lazy, strict=strict)


@takes(Reading)
def verify(
    src: Location,
    dst: Location | None = None,
    *,
    target_layout: str | None = None,
    sample: float | str = 1.0,
    sha256: bool = False,
    jobs: int | None = None,
    on_event: "OnEvent | None" = None,
    **reading: Unpack[Reading],
) -> "Verification":
    """Verify that `dst` is the conversion of `src`, bit for bit, whatever program made it.

    Args:
        src: {source}
        dst: Checkpoint to verify. If it is missing, `src` is verified against its manifest.
        target_layout: Layout or form of `dst`, if `dst` does not record its own.
        sample: Fraction of each layer's experts and of the other tensors to compare, above 0 and
            at most 1, or text such as `5%`. They are chosen at random.
        sha256: True to compute the SHA-256 of each file of the checkpoint that is verified.
        jobs: Number of workers, from 1 to 1024. Default: the number of cores, at most 8.
        on_event: Called with the progress, in the calling thread.
        {options}

    Returns:
        The differences, what was not checked and why, and the checksums. `ok` is True if there are
        no differences. Defects of the verified checkpoint count as differences.

    Raises:
        UsageError: An option makes no sense.
        BadCheckpoint: `src` is malformed, incomplete or contradicts itself, or it has changed.
        PlanRefused: Several layouts fit; name one with `source_layout` or `target_layout`.
        IOFailed: Reading failed.
    """
    from random import SystemRandom

    from streamconv.api.logs import log_verification, logging_events
    from streamconv.catalog.catalog import load_catalog
    from streamconv.system.cores import default_workers
    from streamconv.units import parse_share
    from streamconv.verification.options import VerifyOptions
    from streamconv.verification.run import run_verification
    from streamconv.verification.sides import Sample

    check_jobs(jobs)
    options = VerifyOptions(
        jobs=jobs or default_workers(),
        catalog=load_catalog(reading.get("family")),
        sample=Sample(parse_share(sample), SystemRandom()),
        sha256=sha256,
        reading=reading,
        target_layout=target_layout,
        on_event=logging_events(on_event),
    )
    path, source = (src, None) if dst is None else (dst, str(src))
    verification = run_verification(str(path), source, options)
    log_verification(verification)
    return verification
