"""The verification of a conversion: open the output and its source, and compare them."""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import cast

from streamconv.checkpoint.casting import AS_STORED, Casting
from streamconv.checkpoint.manifest import keeps_config
from streamconv.checkpoint.not_carried_over import left_out_notes
from streamconv.checkpoint.reading_record import recorded_reading
from streamconv.checkpoint.types import MANIFEST, Checkpoint
from streamconv.detection.detect import Detected, detect
from streamconv.detection.quantize import quantize_checkpoint
from streamconv.errors import BadCheckpoint, NoCheckpoint, PlanRefused, UsageError, quoted
from streamconv.options import Opening, Reading, check_prefixes, prefixes_of
from streamconv.quantization.cast_checkpoint import cast_checkpoint
from streamconv.sources.base import Source, read_whole
from streamconv.sources.open import open_source
from streamconv.sources.wrappers.cast import CastSource
from streamconv.sources.wrappers.open_with_template import open_with_template
from streamconv.verification.against_manifest import check_files, undigested
from streamconv.verification.against_source import compare
from streamconv.verification.dequantize import DequantizedSource
from streamconv.verification.expected_config import expected_config
from streamconv.verification.metadata_files import (
    index_differences,
    read_casting,
    read_manifest,
    unchecked_files,
)
from streamconv.verification.options import VerifyOptions
from streamconv.verification.quantize import QuantizedAgain
from streamconv.verification.result import Difference, Tally, VerifyEvent
from streamconv.verification.sides import Side


def verify_conversion(path: str, src: str, options: VerifyOptions, tally: Tally) -> None:
    """Compare a checkpoint with the conversion of its source."""
    with ExitStack() as stack:
        output: Source | BadCheckpoint
        reading = options.reading
        try:
            opened = open_source(path, Opening(prefixes_of(reading)), options.cancel)
            output = stack.enter_context(closing(opened))
            reading = _source_reading(output, options)
        except NoCheckpoint:
            raise
        except BadCheckpoint as error:
            output = error
        try:
            source = _open_source(stack, src, reading, options)
        except UsageError as error:
            recorded = [] if options.reading.get("rename") else reading.get("rename")
            if not recorded:
                raise
            # any other mistake is the user's, and raised here
            _open_source(stack, src, {**reading, "rename": ()}, options)
            renames = " ".join(f"--rename {quoted(text)}" for text in recorded)
            tally.add([Difference(MANIFEST, f"says {renames}: {error.message}")])
            return
        try:
            if isinstance(output, BadCheckpoint):
                raise output
            check_prefixes(reading, output.checkpoint.format, source.checkpoint.format)
            side = Side(output, _detect_output(output, source.checkpoint, options))
        except BadCheckpoint as error:
            tally.add([Difference(path, error.message)])
            return
        tally.unchecked += undigested(output)
        tally.unchecked += left_out_notes(source.checkpoint)
        tally.add(index_differences(output))
        tally.add(_compare(source, side, options, tally))
        if options.sha256:
            tally.add(check_files(output, jobs=options.jobs, sha256=True, cancel=options.cancel))


def _open_source(stack: ExitStack, src: str, reading: Reading, options: VerifyOptions) -> Source:
    """Open the source, which is closed with `stack`.

    Dtypes may differ from those of a template: the output records which casts were made.
    """
    return stack.enter_context(
        open_with_template(src, options.catalog, reading, casts=True, cancel=options.cancel)
    )


def _source_reading(output: Source, options: VerifyOptions) -> Reading:
    """Return the options for reading the source: those of the user, else those that are recorded.

    Raises BadCheckpoint if the record is malformed.
    """
    recorded = recorded_reading((read_manifest(output) or {}).get("reading"), MANIFEST)
    asked = {k: v for k, v in options.reading.items() if v not in (None, False, ())}
    return cast(Reading, {**recorded, **asked})


def _detect_output(output: Source, source: Checkpoint, options: VerifyOptions) -> Detected:
    """Detect the output's layouts.

    Without a config, it has the model type of the source: a DCP has no copy of config.json.

    Raises:
        PlanRefused: They cannot be detected. The hint names `--to`, the option for the output.
    """
    checkpoint = output.checkpoint
    if not checkpoint.config and "model_type" in source.config:
        checkpoint = replace(checkpoint, config={"model_type": source.config["model_type"]})
    try:
        return detect(checkpoint, options.catalog, options.target_layout, pass_through=True)
    except PlanRefused as error:
        raise PlanRefused(error.message, error.hint.replace("--from", "--to")) from None


def _compare(
    source: Source, output: Side, options: VerifyOptions, tally: Tally
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
        found = _detect_source(checkpoint, casting, options)
    except PlanRefused as error:
        yield Difference(MANIFEST, f"says {_cast_options(casting)}: {error.message}")
        return
    if casting != AS_STORED:
        listed = _cast_options(casting)
        tally.unchecked.append(f"whether a cast was wanted; {MANIFEST} says {listed}")
    tally.unchecked += unchecked_files(source, output.source)
    if options.sample.share < 1:
        percent = 100 * options.sample.share
        tally.unchecked.append(f"all bytes except for a sample of {percent:.3g}% of them")
    for pattern, refusal in output.found.refusals.items():
        if pattern not in found.refusals and "--from" in refusal.hint:
            raise PlanRefused(refusal.message, refusal.hint.replace("--from", "--to"))
        if pattern not in found.refusals and refusal.is_defect:
            yield Difference(output.source.checkpoint.location, refusal.message)
            return
    for refusal in found.refusals.values():
        tally.unchecked.append(f"whether the experts are complete: {refusal.message}")
    keeps = keeps_config(read_manifest(output.source) or {})
    expected = expected_config(
        found, source.checkpoint, output.found, output.source.checkpoint, casting
    )
    yield from compare(
        Side(QuantizedAgain(DequantizedSource(CastSource(source))), found),
        output,
        config=None if keeps else expected,
        jobs=options.jobs,
        cancel=options.cancel,
        sample=options.sample,
    )


def _detect_source(checkpoint: Checkpoint, casting: Casting, options: VerifyOptions) -> Detected:
    """Detect the source as if the weights were quantized that the output's manifest lists.

    Raises PlanRefused if the casting makes no sense, or `--from` contradicts the source.
    """

    def detected(found: Checkpoint, is_declared: bool = True) -> Detected:
        layout = options.reading.get("source_layout") if is_declared else None
        return detect(found, options.catalog, layout, pass_through=True)

    return quantize_checkpoint(checkpoint, detected(checkpoint), casting, detected).found


def _cast_options(casting: Casting) -> str:
    """Return the options that ask for a casting."""
    asked = {"--dtype": casting.dtype, "--dequantize": casting.dequantize}
    asked |= {"--quantize": casting.quantize, "--scale": casting.scale}
    dtypes = [f"{option} {dtype}" for option, dtype in asked.items() if dtype]
    only, skip = (
        [f"{option} {quoted(name)}" for name in names]
        for option, names in (("--only", casting.only), ("--except", casting.skip))
    )
    return " ".join([*dtypes, *only, *skip])
