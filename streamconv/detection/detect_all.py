"""Detect as much of a checkpoint as can be shown, for `inspect`, which converts nothing."""

from dataclasses import replace

from streamconv.catalog.catalog import Catalog
from streamconv.checkpoint.types import Checkpoint
from streamconv.detection.detect import Detected, detect
from streamconv.detection.refusals import Refusal
from streamconv.errors import BadCheckpoint

WHOLE = ""
"""The pattern for a refusal of the whole checkpoint."""


def detect_all(
    checkpoint: Checkpoint, catalog: Catalog, declared_layout: str | None = None
) -> Detected:
    """Detect a checkpoint, and collect every reason why experts of it cannot be converted.

    If its names or its record contradict themselves, the whole checkpoint is refused, and detected
    without record and model type.

    Args:
        checkpoint: Its headers.
        catalog: The layouts and families to look for.
        declared_layout: The form or layout that the user says it has.

    Raises:
        PlanRefused: The checkpoint contradicts `declared_layout`.
        UsageError: There is no form or layout called `declared_layout`.
    """
    try:
        return detect(checkpoint, catalog, declared_layout, pass_through=True)
    except BadCheckpoint as error:
        config = {key: value for key, value in checkpoint.config.items() if key != "model_type"}
        bare = replace(checkpoint, config=config, record=None)
        found = detect(bare, catalog, pass_through=True)
        model_type = checkpoint.config.get("model_type")
        return replace(
            found,
            model_type=model_type if isinstance(model_type, str) else "",
            refusals={WHOLE: Refusal.of(error), **found.refusals},
        )
