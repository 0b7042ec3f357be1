"""Sentences, for every report, on what a conversion does not carry over from a checkpoint.

These are files of tensors that the index leaves out, and other files that are not copied. Files
that every result has of its own, such as the index, are not among them.
"""

from collections.abc import Iterable, Iterator

from streamconv.checkpoint.tensor_names import summarize_names
from streamconv.checkpoint.types import (
    INDEX_SUFFIX,
    JOURNAL_PREFIX,
    MANIFEST,
    Checkpoint,
    OtherFile,
    UnlistedFile,
)
from streamconv.errors import quoted
from streamconv.units import show_size

MAX_SHOWN_FILES = 4
"""Files of one reason that are named before the others are only counted."""


def reading_notes(checkpoint: Checkpoint) -> Iterator[str]:
    """Yield a sentence for each rename and tied head, and for all that the index leaves out."""
    for rename in checkpoint.renames:
        names = "1 name" if rename.count == 1 else f"{rename.count:,} names"
        yield f"renamed before anything was detected, in {names}: {quoted(rename.text)}"
    yield from left_out_notes(checkpoint)
    if checkpoint.added:
        files = quoted(", ".join(checkpoint.added))
        yield f"added as asked, although the index leaves them out: the tensors of {files}"
    if checkpoint.unindexed:
        yield (
            f"read although the index leaves them out of files that it lists: "
            f"{summarize_names(checkpoint.unindexed)}"
        )


def left_out_notes(checkpoint: Checkpoint) -> Iterator[str]:
    """Yield a sentence for each tied head and file of tensors that no verification compares."""
    template = checkpoint.template
    for name in template.tied if template else ():
        yield (
            f"not carried over: {quoted(name)} of the template, which config.json ties to the "
            "embeddings, and these were trained"
        )
    for name in template.maybe_tied if template else ():
        yield (
            f"{quoted(name)} is the template's, and the embeddings were trained: config.json does "
            "not say whether the model ties them; if it does, remove that tensor"
        )
    for unlisted in checkpoint.unlisted:
        yield _unlisted_note(unlisted, checkpoint)


def not_carried_over_notes(checkpoint: Checkpoint, others: Iterable[OtherFile]) -> Iterator[str]:
    """Yield a sentence for everything that is not carried over, and for what is added.

    Args:
        checkpoint: The source.
        others: Its files without tensors, each with the reason if it is not copied.
    """
    yield from reading_notes(checkpoint)
    unlisted = {file.name for file in checkpoint.unlisted}
    by_reason: dict[str, list[str]] = {}
    for other in others:
        if other.skip_reason and other.name not in unlisted and not _is_replaced(other):
            by_reason.setdefault(other.skip_reason, []).append(other.name)
    for reason, names in by_reason.items():
        shown = ", ".join(quoted(name) for name in names[:MAX_SHOWN_FILES])
        rest = len(names) - MAX_SHOWN_FILES
        more = f" and {rest:,} more" if rest > 0 else ""
        yield f"not carried over: {shown}{more}: {reason}"


def _is_replaced(other: OtherFile) -> bool:
    """Return True for what describes the source alone, or has its counterpart in every result."""
    if other.name.endswith("/"):
        return True
    is_named_alike = (
        other.name == MANIFEST
        or other.name.startswith(JOURNAL_PREFIX)
        or other.name.endswith(INDEX_SUFFIX)
    )
    return is_named_alike and "/" not in other.name


def _unlisted_note(unlisted: UnlistedFile, checkpoint: Checkpoint) -> str:
    file = quoted(unlisted.name)
    if not unlisted.tensors:
        return (
            f"not carried over: {file}, which the index leaves out, and in which no tensors can "
            "be found"
        )
    names = [info.name for info in unlisted.tensors]
    count = "1 tensor" if len(names) == 1 else f"{len(names):,} tensors"
    what = f"{count}, {show_size(unlisted.nbytes)}: {summarize_names(names)}"
    twice = [name for name in names if name in checkpoint.tensors]
    if twice:
        return (
            f"not carried over: {file}, which the index leaves out ({what}); the listed files have "
            f"{len(twice):,} of its tensors, too, such as {quoted(twice[0])}"
        )
    return (
        f"not carried over: {file}, which the index leaves out ({what}); "
        "add --add-unlisted to convert it, too"
    )
