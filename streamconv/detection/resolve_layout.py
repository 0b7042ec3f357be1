"""Which of the layouts that fit a stack it has, and how many experts its config counts. Pure.

A layout comes from what the source's record says; else from names and shapes, where exactly one
row fits; else from the form whose renames the names show; else from `--from`. What is still open
is an error: a layout is never guessed.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from streamconv.catalog.families import COUNT_KEYS, FORMS, Family, Form
from streamconv.catalog.layouts import NamedLayout, namings
from streamconv.checkpoint.types import Checkpoint, in_config
from streamconv.detection.stacks import Stack
from streamconv.errors import BadCheckpoint, PlanRefused, quoted

TEXT_SECTIONS = ("", "text_config", "llm_config", "language_config")
"""Where the config of an unknown model type may describe its language model."""


class Settle:
    """Decides for each stack of a checkpoint, in the terms of `experts.Settle`."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        family: Family | None,
        names: Form,
        declared_layout: str | None,
    ) -> None:
        self._checkpoint = checkpoint
        self._family = family
        self._names = names
        self._stated = declared_layout
        self._settled: dict[str, str] = {}

    def __call__(self, pattern: str, fits: tuple[NamedLayout, ...], looks: str) -> NamedLayout:
        where = f"{quoted(pattern)}experts ({quoted(looks)})"
        if not fits:
            raise BadCheckpoint(f"{where} fits no layout: the shapes of its weights disagree")
        by_layout = {row.layout.name: row for row in fits}
        layout = self._layout(pattern, where, tuple(by_layout))
        self._settled[pattern] = layout
        return NamedLayout(
            by_layout[layout].layout, self._naming(pattern, by_layout[layout]).naming
        )

    def check_stated(self) -> None:
        """Refuse what `--from` says where the checkpoint itself says something else."""
        said = {pattern: self._stated_layout(pattern) for pattern in self._settled}
        wrong = {p: layout for p, layout in said.items() if layout not in (None, self._settled[p])}
        if wrong and (self._stated in FORMS or len(wrong) == len(said)):
            pattern, layout = next(iter(wrong.items()))
            raise PlanRefused(
                f"{quoted(pattern)}experts of {self._checkpoint.location} is "
                f"{self._settled[pattern]}, --from says {layout}"
            )

    def _layout(self, pattern: str, where: str, fits: tuple[str, ...]) -> str:
        recorded = self._recorded(pattern)
        if recorded is not None:
            if recorded.layout.name not in fits:
                raise BadCheckpoint(
                    f"{where} is {recorded.layout.name} by its record, "
                    f"its shapes fit {' and '.join(fits)}"
                )
            return recorded.layout.name
        if len(fits) == 1:
            return fits[0]
        evident = self._names.layout_of(pattern)
        for known in (evident.name if evident else None, self._stated_layout(pattern)):
            if known in fits:
                return str(known)
        raise PlanRefused(
            f"{where} fits {' and '.join(fits)} alike, and nothing in the checkpoint says which",
            f"say which with --from {fits[0]}",
        )

    def _recorded(self, pattern: str) -> NamedLayout | None:
        record = self._checkpoint.record
        return record.stacks.get(pattern) if record else None

    def _stated_layout(self, pattern: str) -> str | None:
        if self._stated not in FORMS:
            return self._stated
        form = self._family.forms.get(self._stated) if self._family else None
        layout = form.layout_of(pattern) if form else None
        return layout.name if layout else None

    def _naming(self, pattern: str, fit: NamedLayout) -> NamedLayout:
        """The row under the naming that its names, the record or the family tell."""
        recorded = self._recorded(pattern)
        if fit.names_projections():
            return fit
        if recorded is not None:
            return recorded
        return NamedLayout(
            fit.layout, self._family.naming if self._family else next(iter(namings().values()))
        )


def check_count(
    config: Mapping[str, Any], family: Family | None, stack: Stack, alone: bool
) -> None:
    """Hold the experts found against what the config counts, where it does."""
    section = family.stacks.get(stack.pattern) if family else None
    for path in (section,) if section is not None else TEXT_SECTIONS if alone else ():
        for key, count in _counts(config, path):
            if count != stack.sizes["e"]:
                raise BadCheckpoint(
                    f"{quoted(stack.pattern)}experts holds {stack.sizes['e']} experts, "
                    f"config.json says {'.'.join(filter(None, (path, key)))} = {count}"
                )


def counted(config: Mapping[str, Any], family: Family | None, pattern: str) -> int | None:
    """How many experts the config counts in the modules of a pattern, where the family tells."""
    section = family.stacks.get(pattern) if family else None
    counts = _counts(config, section) if section is not None else ()
    return next((count for _, count in counts), None)


def _counts(config: Mapping[str, Any], path: str) -> Iterator[tuple[str, int]]:
    """The numbers of experts in a section of the config, by what they are called there."""
    fields = in_config(config, path)
    for key in COUNT_KEYS if isinstance(fields, Mapping) else ():
        count = fields.get(key)
        if type(count) is int:
            yield key, count
