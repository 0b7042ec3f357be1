"""Detect what a checkpoint is apart from its family: an adapter, a draft model, quantized."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

from streamconv.catalog.checkpoint_files import CONFIG, QUANT_CONFIG
from streamconv.catalog.checkpoint_kinds import CheckpointKind, checkpoint_kinds
from streamconv.catalog.families import COUNT_KEYS
from streamconv.checkpoint.config import TEXT_SECTIONS, config_value
from streamconv.checkpoint.tensor_names import summarize_names
from streamconv.checkpoint.types import Checkpoint
from streamconv.detection.detect import Detected
from streamconv.errors import BadCheckpoint, PlanRefused, quoted
from streamconv.quantization.announcement import contradiction_notes
from streamconv.quantization.describe import format_uses
from streamconv.quantization.recognize import recognize

NAMES_AT_A_TIME = 1024


def kinds_of(checkpoint: Checkpoint) -> tuple[CheckpointKind, ...]:
    """Return the kinds that a checkpoint shows signs of."""
    return tuple(kind for kind in checkpoint_kinds() if _has_signs(kind, checkpoint))


def check_kind(checkpoint: Checkpoint) -> None:
    """Raise PlanRefused if a checkpoint is of a kind that is not converted."""
    for kind in checkpoint_kinds():
        if kind.way and _has_signs(kind, checkpoint):
            raise PlanRefused(
                f"cannot convert {checkpoint.location}: it is {kind.says}",
                f"{kind.way}; or add --pass-through",
            )


def _has_signs(kind: CheckpointKind, checkpoint: Checkpoint) -> bool:
    """Return True if a checkpoint has one of the signs of a kind."""
    files = {*(file.name for file in checkpoint.files), *(o.name for o in checkpoint.others)}
    config, tensors = checkpoint.config, checkpoint.tensors
    listed = config.get("architectures")
    architectures = [e for e in listed if isinstance(e, str)] if isinstance(listed, list) else []
    return (
        not files.isdisjoint(kind.files)
        or any(config_value(config, path) is not None for path in kind.config)
        or any(fnmatchcase(each, glob) for each in architectures for glob in kind.architectures)
        or any(name in tensors for name in kind.names)
        or _is_part_of_any(kind.parts, tensors)
    )


def _is_part_of_any(parts: Sequence[str], names: Iterable[str]) -> bool:
    """Return True if one of the texts, which have no line break, is in one of the names."""
    if not parts:
        return False
    rest = iter(names)
    # in portions: the text of all names would take as much memory as the names
    while some := tuple(itertools.islice(rest, NAMES_AT_A_TIME)):
        text = "\n".join(some)
        if any(part in text for part in parts):
            return True
    return False


def check_experts_found(checkpoint: Checkpoint, found: Detected) -> None:
    """Raise PlanRefused if config.json counts experts, and no names of experts were found."""
    for note in count_notes(checkpoint, found):
        raise PlanRefused(
            f"cannot convert {checkpoint.location}: {note}",
            "describe their names with --family FILE, change them with --rename, or add "
            "--pass-through to copy all tensors as they are",
        )


def format_notes(checkpoint: Checkpoint) -> Iterator[str]:
    """Yield a sentence for each number format of weights, and for each format in config.json."""
    try:
        found = recognize(checkpoint)
    except BadCheckpoint as error:
        yield f"quantized, and inconsistent: {error.message}"
        return
    for use in format_uses(found):
        count = "1 weight" if len(use.weights) == 1 else f"{len(use.weights):,} weights"
        yield f"quantized: {use.says}; {count}, {summarize_names(use.weights)}"
    for announced in found.announced:
        is_in_config = announced.path != QUANT_CONFIG
        yield f"{CONFIG}: {announced.text}" if is_in_config else announced.text
    yield from contradiction_notes(checkpoint.config, checkpoint.quant_config)


def name_notes(found: Detected) -> Iterator[str]:
    """Yield a sentence for unknown names, because of which a checkpoint is in no form."""
    model_type = quoted(found.model_type)
    if found.foreign:
        names = ", ".join(quoted(f"{pattern}experts") for pattern in found.foreign)
        yield f"in no form of {model_type}: its experts are not called {names}"
    if found.unknown_names:
        names = summarize_names(found.unknown_names)
        yield f"in no form of {model_type}: it has no such names next to its experts: {names}"


def count_notes(checkpoint: Checkpoint, found: Detected) -> Iterator[str]:
    """Yield a sentence for each number of experts in config.json if no experts were found."""
    if found.stacks or found.refusals:
        return
    for section in TEXT_SECTIONS:
        for key in COUNT_KEYS:
            path = ".".join(filter(None, (section, key)))
            count = config_value(checkpoint.config, path)
            if type(count) is int and count > 1:
                yield f"config.json says {path} = {count}, and no experts were found"
