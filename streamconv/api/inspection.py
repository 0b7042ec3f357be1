"""The result of `inspect`."""

from collections.abc import Mapping
from dataclasses import dataclass

from streamconv.checkpoint.types import Checkpoint
from streamconv.detection.detect import Detected
from streamconv.detection.refusals import Refusal
from streamconv.detection.stacks import Stack
from streamconv.errors import quoted
from streamconv.units import show_size


@dataclass(frozen=True, slots=True)
class Inspection:
    """A checkpoint as its headers describe it, with its detected family, form and stacks."""

    checkpoint: Checkpoint
    """Its tensors and files, and the content of config.json."""
    detected: Detected
    """Its family, form and expert stacks, and the tensors by their hub names."""

    @property
    def model_type(self) -> str:
        """The `model_type` of config.json; empty if there is none."""
        return self.detected.model_type

    @property
    def family(self) -> str | None:
        """Name of the family, or None if no family has the model type."""
        return self.detected.family.name if self.detected.family else None

    @property
    def form(self) -> str | None:
        """The form of the whole checkpoint: `hub`, `transformers`, `mindspeed`; None if none."""
        return self.detected.form

    @property
    def layouts(self) -> Mapping[str, str]:
        """The layout of each expert stack, by its pattern: `model.layers.*.mlp.`"""
        return {stack.pattern: stack.row.layout.name for stack in self.detected.stacks}

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """The expert stacks that can be converted."""
        return self.detected.stacks

    @property
    def refusals(self) -> Mapping[str, Refusal]:
        """Why other experts cannot be converted, by the pattern of their stacks."""
        return self.detected.refusals

    def __repr__(self) -> str:
        checkpoint = self.checkpoint
        layouts = ", ".join(dict.fromkeys(self.layouts.values())) or "no expert stack"
        return (
            f"<Inspection of {quoted(checkpoint.location)}: {quoted(self.model_type)}, {layouts}, "
            f"{len(checkpoint.tensors):,} tensors, {show_size(checkpoint.total_bytes)}>"
        )
