"""One verification: open both checkpoints, compare them, and collect the result."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import cast

from streamconv.catalog.catalog import Catalog
from streamconv.checkpoint.casting import AS_STORED, Casting
from streamconv.checkpoint.manifest import keeps_config
from streamconv.checkpoint.not_carried_over import reading_notes
from streamconv.checkpoint.reading_record import recorded_reading
from streamconv.checkpoint.tensor_names import natural_key
from streamconv.checkpoint.types import MANIFEST
from streamconv.detection.detect import Detected, detect
from streamconv.errors import BadCheckpoint, PlanRefused, UsageError, quoted
from streamconv.options import Opening, Reading, check_prefixes, prefixes_of
from streamconv.quantization.cast_checkpoint import cast_checkpoint
from streamconv.sources.base import Source, read_whole
from streamconv.sources.open import open_source
from streamconv.sources.wrappers.cast import CastSource
from streamconv.sources.wrappers.open_with_template import open_with_template
from streamconv.system.cancellation import CancelToken
from streamconv.system.resources import peak_bytes
from streamconv.verification.against_manifest import check_files
from streamconv.verification.against_source import compare
from streamconv.verification.dequantize import DequantizedSource
from streamconv.verification.expected_config import expected_config
from streamconv.verification.metadata_files import (
    has_files,
    index_differences,
    read_casting,
    read_manifest,
)
from streamconv.verification.result import (
    KEPT_DIFFERENCES,
    Difference,
    FileHashed,
    Verification,
    VerifyEvent,
    VerifyProgress,
    VerifyStarted,
)
from streamconv.verification.sides import EVERYTHING, Sample, Side

OnEvent = Callable[[VerifyStarted | VerifyProgress], None]


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """How to verify."""

    jobs: int
    """Number of threads."""
    catalog: Catalog
    sample: Sample = EVERYTHING
    sha256: bool = False
    """True to report the SHA-256 of each file of the checkpoint that is verified."""
    reading: Reading = field(default_factory=Reading)
    """Describes the source, or the only checkpoint; its prefixes are for both."""
    target_layout: str | None = None
    """Layout or form of the checkpoint that is verified, if it does not record its own."""
    on_event: OnEvent | None = None
    cancel: CancelToken = field(default_factory=CancelToken)
    """Ends the verification with Interrupted if it is set."""


@dataclass
class _Tally:
    """What has been found so far: counts all differences, keeps the first ones."""

    on_event: OnEvent | None
    differences: list[Difference] = field(default_factory=list)
    difference_count: int = 0
    checked_bytes: int = 0
    unchecked: list[str] = field(default_factory=list)
    sha256: dict[str, str] = field(default_factory=dict)

    def add(self, events: Iterable[VerifyEvent]) -> None:
        """Count events, and pass the progress on."""
        for event in events:
            if isinstance(event, Difference):
                self.difference_count += 1
                if len(self.differences) < KEPT_DIFFERENCES:
                    self.differences.append(event)
            elif isinstance(event, FileHashed):
                self.sha256[event.name] = event.sha256
            else:
                self.checked_bytes += event.nbytes if isinstance(event, VerifyProgress) else 0
                if self.on_event is not None:
                    self.on_event(event)


def run_verification(path: str, source: str | None, options: VerifyOptions) -> Verification:
    """Verify a checkpoint.

    Args:
        path: The checkpoint to verify.
        source: What it must be the conversion of; None to compare it with its own manifest.
        options: How to verify.

    Returns:
        The differences. Defects of the checkpoint at `path` are among them.

    Raises:
        StreamconvError: `source` is malformed, a disk fails, or an option makes no sense.
    """
    begin = time.monotonic()
    if source is None and options.reading.get("template") is not None:
        raise UsageError(
            f"cannot verify {path} with a template: alone, it is compared with its manifest",
            "name the source, too: verify SRC DST --template HF_DIR",
        )
    tally = _Tally(options.on_event)
    if source is None:
        _verify_alone(path, options, tally)
    else:
        _verify_conversion(path, source, options, tally)
    differences = sorted(tally.differences, key=lambda d: (natural_key(d.subject), d.expert or 0))
    return Verification(
        path=path,
        source=source,
        checked_bytes=tally.checked_bytes,
        differences=tuple(differences),
        difference_count=tally.difference_count,
        unchecked=tuple(tally.unchecked),
        sha256=dict(sorted(tally.sha256.items())),
        seconds=time.monotonic() - begin,
        peak_memory=peak_bytes(),
    )


# --- alone -------------------------------------------------------------------------------------


def _verify_alone(path: str, options: VerifyOptions, tally: _Tally) -> None:
    """Compare a checkpoint with its own manifest, and its structure with itself."""
    reading = options.reading
    with ExitStack() as stack:
        try:
            opened = open_source(path, Opening(prefixes_of(reading)), options.cancel)
            output = stack.enter_context(closing(opened))
            check_prefixes(reading, output.checkpoint.format)
            _check_structure(output, options, tally)
        except BadCheckpoint as error:
            tally.add([Difference(path, error.message)])
            return
        tally.unchecked += _undigested(output)
        tally.add(index_differences(output))
        tally.add(_check_files(output, options))


def _check_structure(output: Source, options: VerifyOptions, tally: _Tally) -> None:
    """Raise BadCheckpoint if experts are incomplete; note what nobody can check."""
    declared_layout = options.reading.get("source_layout")
    try:
        found = detect(output.checkpoint, options.catalog, declared_layout, pass_through=True)
    except PlanRefused as error:
        tally.unchecked.append(f"whether the experts are complete: {error.message}")
        return
    has_manifest = read_manifest(output) is not None
    for refusal in found.refusals.values():
        if refusal.is_defect and not has_manifest:
            raise BadCheckpoint(refusal.message)
        tally.unchecked.append(f"whether the experts are complete: {refusal.message}")
    if not has_manifest:
        tally.unchecked.append(f"the bytes: there is no {MANIFEST} that says what was written")


def _undigested(output: Source) -> list[str]:
    """Return which files nobody can compare with what was written, as text."""
    return [
        f"the bytes of {name}: no digest of them was recorded"
        for name in output.checkpoint.undigested
    ]


def _check_files(output: Source, options: VerifyOptions) -> Iterator[VerifyEvent]:
    return check_files(output, jobs=options.jobs, sha256=options.sha256, cancel=options.cancel)


# --- with its source ---------------------------------------------------------------------------


def _verify_conversion(path: str, src: str, options: VerifyOptions, tally: _Tally) -> None:
    """Compare a checkpoint with the conversion of its source."""
    with ExitStack() as stack:
        output: Source | BadCheckpoint
        reading = options.reading
        try:
            opened = open_source(path, Opening(prefixes_of(reading)), options.cancel)
            output = stack.enter_context(closing(opened))
            reading = _source_reading(output, options)
        except BadCheckpoint as error:
            output = error
        # Of a template, every dtype is wanted: the output says which casts were made.
        source = stack.enter_context(
            open_with_template(src, options.catalog, reading, casts=True, cancel=options.cancel)
        )
        try:
            if isinstance(output, BadCheckpoint):
                raise output
            check_prefixes(reading, output.checkpoint.format, source.checkpoint.format)
            side = Side(output, _detect_output(output, options))
        except BadCheckpoint as error:
            tally.add([Difference(path, error.message)])
            return
        tally.unchecked += _undigested(output)
        tally.unchecked += reading_notes(source.checkpoint)
        tally.add(index_differences(output))
        tally.add(_compare(source, side, options, tally))
        if options.sha256:
            tally.add(_check_files(output, options))


def _source_reading(output: Source, options: VerifyOptions) -> Reading:
    """Return the options for reading the source: as asked for, else as the output records them.

    Raises BadCheckpoint if the record is malformed.
    """
    recorded = recorded_reading((read_manifest(output) or {}).get("reading"), MANIFEST)
    asked = {k: v for k, v in options.reading.items() if v not in (None, False, ())}
    return cast(Reading, {**recorded, **asked})


def _detect_output(output: Source, options: VerifyOptions) -> Detected:
    """Detect the output's layouts. Raises PlanRefused whose hint names the output's option."""
    try:
        return detect(output.checkpoint, options.catalog, options.target_layout, pass_through=True)
    except PlanRefused as error:
        raise PlanRefused(error.message, error.hint.replace("--from", "--to")) from None


def _compare(
    source: Source, output: Side, options: VerifyOptions, tally: _Tally
) -> Iterator[VerifyEvent]:
    """Compare the output with its source, read with the casts that the output's manifest lists."""
    try:
        casting = read_casting(output.source)
    except BadCheckpoint as error:
        yield Difference(MANIFEST, error.message)
        return
    try:
        family = options.catalog.find_family(source.checkpoint.config.get("model_type"))
        checkpoint = cast_checkpoint(source.checkpoint, casting, family, read_whole(source))
    except PlanRefused as error:
        yield Difference(MANIFEST, f"says {_cast_options(casting)}: {error.message}")
        return
    if casting != AS_STORED:
        listed = _cast_options(casting)
        tally.unchecked.append(f"whether a cast was wanted; {MANIFEST} says {listed}")
    if not (has_files(source) and has_files(output.source)):
        tally.unchecked.append("files without tensors: a DCP has none")
    if options.sample.share < 1:
        percent = 100 * options.sample.share
        tally.unchecked.append(f"all bytes except for a sample of {percent:.3g}% of them")
    declared_layout = options.reading.get("source_layout")
    found = detect(checkpoint, options.catalog, declared_layout, pass_through=True)
    for pattern, refusal in output.found.refusals.items():
        if pattern not in found.refusals and "--from" in refusal.hint:
            raise PlanRefused(refusal.message, refusal.hint.replace("--from", "--to"))
        if pattern not in found.refusals and refusal.is_defect:
            yield Difference(output.source.checkpoint.location, refusal.message)
            return
    for refusal in found.refusals.values():
        tally.unchecked.append(f"whether the experts are complete: {refusal.message}")
    keeps = keeps_config(read_manifest(output.source) or {})
    expected = expected_config(found, source.checkpoint, output.source.checkpoint, casting)
    yield from compare(
        Side(DequantizedSource(CastSource(source)), found),
        output,
        config=None if keeps else expected,
        jobs=options.jobs,
        cancel=options.cancel,
        sample=options.sample,
    )


def _cast_options(casting: Casting) -> str:
    """Return the options that ask for a casting."""
    asked = {"--dtype": casting.dtype, "--dequantize": casting.dequantize}
    dtypes = [f"{option} {dtype}" for option, dtype in asked.items() if dtype]
    only, skip = (
        [f"{option} {quoted(name)}" for name in names]
        for option, names in (("--only", casting.only), ("--except", casting.skip))
    )
    return " ".join([*dtypes, *only, *skip])
