"""Opens what is to be verified, and gathers what is found into a `Verification`."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field

from streamconv.catalog.catalog import Catalog
from streamconv.checkpoint.casting import AS_STORED, Casting, cast_checkpoint
from streamconv.checkpoint.tensor_names import natural_key
from streamconv.checkpoint.types import MANIFEST
from streamconv.detection.detect import Detected, detect
from streamconv.errors import BadCheckpoint, PlanRefused, UsageError
from streamconv.options import Reading, check_prefixes, prefixes_of
from streamconv.sources.base import Source
from streamconv.sources.open import open_source
from streamconv.sources.wrappers.cast import CastSource
from streamconv.sources.wrappers.open_with_template import open_with_template
from streamconv.system.cancellation import CancelToken
from streamconv.system.resources import peak_bytes
from streamconv.verification.against_manifest import check
from streamconv.verification.against_source import compare
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
    catalog: Catalog
    sample: Sample = EVERYTHING
    sha256: bool = False
    reading: Reading = field(default_factory=Reading)
    """How the source is to be understood, and alone what is verified; prefixes are of both."""
    target_layout: str | None = None
    on_event: OnEvent | None = None
    cancel: CancelToken = field(default_factory=CancelToken)
    """Ends it, with Interrupted."""


@dataclass
class _Tally:
    """Counts; keeps the first differences."""

    on_event: OnEvent | None
    differences: list[Difference] = field(default_factory=list)
    found: int = 0
    checked: int = 0
    unchecked: list[str] = field(default_factory=list)
    sha256: dict[str, str] = field(default_factory=dict)

    def take(self, events: Iterable[VerifyEvent]) -> None:
        for event in events:
            if isinstance(event, Difference):
                self.found += 1
                if len(self.differences) < KEPT_DIFFERENCES:
                    self.differences.append(event)
            elif isinstance(event, FileHashed):
                self.sha256[event.name] = event.sha256
            else:
                self.checked += event.nbytes if isinstance(event, VerifyProgress) else 0
                if self.on_event is not None:
                    self.on_event(event)


def run_verification(path: str, source: str | None, asked: VerifyOptions) -> Verification:
    """Whether the checkpoint at `path` is the conversion of `source`, or what its manifest says.

    What is wrong with `path` is in the result; what is wrong with `source`, and disks that fail,
    is raised as StreamconvError.
    """
    begin = time.monotonic()
    reading = asked.reading
    if source is None and reading.get("template") is not None:
        raise UsageError(
            f"{path} alone is held against its manifest, not against a template",
            "name what it was made from, too: verify SRC DST --template HF_DIR",
        )
    tally = _Tally(asked.on_event)
    with ExitStack() as stack:
        # which dtypes are wanted is for the output to say
        opening = (
            open_with_template(source, asked.catalog, reading, casts=True, cancel=asked.cancel)
            if source
            else None
        )
        origin = stack.enter_context(opening) if opening else None
        try:
            output = stack.enter_context(
                closing(open_source(path, prefixes_of(reading), asked.cancel))
            )
            check_prefixes(
                reading, output.checkpoint.format, *([origin.checkpoint.format] if origin else [])
            )
            found = _recognised(output, origin, asked, tally)
        except BadCheckpoint as error:
            tally.take([Difference(path, error.message)])
        else:
            tally.take(index_differences(output))
            if origin is not None and found is not None:
                tally.take(_beside(origin, Side(output, found), asked, tally))
            if origin is None or asked.sha256:
                tally.take(check(output, jobs=asked.jobs, sha256=asked.sha256, cancel=asked.cancel))
    differences = sorted(tally.differences, key=lambda d: (natural_key(d.subject), d.expert or 0))
    return Verification(
        path=path,
        source=source,
        checked_bytes=tally.checked,
        differences=tuple(differences),
        difference_count=tally.found,
        unchecked=tuple(tally.unchecked),
        sha256=dict(sorted(tally.sha256.items())),
        seconds=time.monotonic() - begin,
        peak_memory=peak_bytes(),
    )


def _recognised(
    output: Source, origin: Source | None, asked: VerifyOptions, tally: _Tally
) -> Detected | None:
    """What the output is; None where nobody can tell and nothing depends on it."""
    alone = origin is None
    try:
        found = detect(
            output.checkpoint,
            asked.catalog,
            asked.reading.get("source_layout") if alone else asked.target_layout,
            pass_through=True,
        )
    except PlanRefused as error:
        if not alone:
            raise PlanRefused(error.message, error.hint.replace("--from", "--to")) from None
        tally.unchecked.append(f"whether the experts are complete: {error.message}")
        return None
    if alone and read_manifest(output) is None:
        tally.unchecked.append(f"the bytes: there is no {MANIFEST} that says what was written")
    return found


def _beside(
    origin: Source, output: Side, asked: VerifyOptions, tally: _Tally
) -> Iterator[VerifyEvent]:
    """The output beside its source, whose tensors are read as the output says they were cast."""
    try:
        casting = read_casting(output.source)
    except BadCheckpoint as error:
        yield Difference(MANIFEST, error.message)
        return
    if casting != AS_STORED:
        tally.unchecked.append(f"whether a cast was wanted; {MANIFEST} says {_shown(casting)}")
    try:
        checkpoint = cast_checkpoint(origin.checkpoint, casting)
    except PlanRefused as error:
        yield Difference(MANIFEST, f"says {_shown(casting)}: {error.message}")
        return
    declared_layout = asked.reading.get("source_layout")
    found = detect(checkpoint, asked.catalog, declared_layout, pass_through=True)
    source = Side(CastSource(origin), found)
    if not (has_files(origin) and has_files(output.source)):
        tally.unchecked.append("files beside the tensors: a DCP has none")
    if asked.sample.share < 1:
        tally.unchecked.append(f"all bytes but a sample of {100 * asked.sample.share:.3g}% of them")
    yield from compare(source, output, jobs=asked.jobs, cancel=asked.cancel, sample=asked.sample)


def _shown(casting: Casting) -> str:
    made = {"--dtype": casting.dtype, "--dequantize": casting.dequantize}
    return " ".join(f"{option} {dtype}" for option, dtype in made.items() if dtype)
