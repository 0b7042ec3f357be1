"""One verification: of a checkpoint alone, or with its source."""

import time
from contextlib import ExitStack, closing

from streamconv.checkpoint.tensor_names import natural_key
from streamconv.checkpoint.types import MANIFEST
from streamconv.detection.detect import detect
from streamconv.errors import BadCheckpoint, NoCheckpoint, PlanRefused, UsageError
from streamconv.options import Opening, check_prefixes, prefixes_of
from streamconv.sources.base import Source
from streamconv.sources.open import open_source
from streamconv.system.resources import peak_bytes
from streamconv.verification.against_manifest import check_files, undigested
from streamconv.verification.conversion import verify_conversion
from streamconv.verification.metadata_files import index_differences, read_manifest
from streamconv.verification.options import VerifyOptions
from streamconv.verification.result import Difference, Tally, Verification


def run_verification(path: str, source: str | None, options: VerifyOptions) -> Verification:
    """Verify a checkpoint.

    Args:
        path: The checkpoint to verify.
        source: What it must be the conversion of; None to compare it with its own manifest.
        options: How to verify.

    Returns:
        The differences. Defects of the checkpoint at `path` are among them.

    Raises:
        NoCheckpoint: There is no checkpoint at `path`.
        StreamconvError: `source` is malformed, a disk fails, or an option makes no sense.
    """
    begin = time.monotonic()
    if source is None and options.reading.get("template") is not None:
        raise UsageError(
            f"cannot verify {path} with a template: alone, it is compared with its manifest",
            "name the source, too: verify SRC DST --template HF_DIR",
        )
    tally = Tally(options.on_event)
    if source is None:
        _verify_alone(path, options, tally)
    else:
        verify_conversion(path, source, options, tally)
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


def _verify_alone(path: str, options: VerifyOptions, tally: Tally) -> None:
    """Compare a checkpoint with its own manifest, and its structure with itself."""
    reading = options.reading
    with ExitStack() as stack:
        try:
            opened = open_source(path, Opening(prefixes_of(reading)), options.cancel)
            output = stack.enter_context(closing(opened))
            check_prefixes(reading, output.checkpoint.format)
            _check_structure(output, options, tally)
        except NoCheckpoint:
            raise
        except BadCheckpoint as error:
            tally.add([Difference(path, error.message)])
            return
        tally.unchecked += undigested(output)
        tally.add(index_differences(output))
        events = check_files(
            output, jobs=options.jobs, sha256=options.sha256, cancel=options.cancel
        )
        tally.add(events)


def _check_structure(output: Source, options: VerifyOptions, tally: Tally) -> None:
    """Raise BadCheckpoint if experts are incomplete; note what cannot be checked.

    With a manifest, the bytes are what was written. Then names that the catalog does not know, such
    as those of a family file, or of a result without config.json, are no damage.
    """
    declared_layout = options.reading.get("source_layout")
    has_manifest = read_manifest(output) is not None
    try:
        found = detect(output.checkpoint, options.catalog, declared_layout, pass_through=True)
    except (PlanRefused, BadCheckpoint) as error:
        if isinstance(error, BadCheckpoint) and not has_manifest:
            raise
        tally.unchecked.append(f"whether the experts are complete: {error.message}")
        return
    for refusal in found.refusals.values():
        if refusal.is_defect and not has_manifest:
            raise BadCheckpoint(refusal.message)
        tally.unchecked.append(f"whether the experts are complete: {refusal.message}")
    if not has_manifest:
        tally.unchecked.append(f"the bytes: there is no {MANIFEST} that says what was written")
