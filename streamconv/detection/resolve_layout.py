"""Resolve which of the layouts that fit some experts is theirs.

Sources of the answer, in this order:

1. the record that the checkpoint carries;
2. names and shapes, if exactly one layout fits them;
3. the form whose names the tensors have;
4. `--from`;
5. the model type of the language model, if all of its family's forms have one of these layouts.

If none of them answers, that is an error: a layout is never guessed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from streamconv.catalog.catalog import Catalog
from streamconv.catalog.families import FORMS, HUB_NAMES, Family, Form
from streamconv.catalog.layouts import Layout, NamedLayout, Naming
from streamconv.checkpoint.config import TEXT_SECTIONS, config_value
from streamconv.checkpoint.types import Checkpoint
from streamconv.detection.experts import Candidate, ModuleExperts
from streamconv.errors import BadCheckpoint, PlanRefused, quoted


@dataclass(frozen=True, slots=True)
class LayoutResolver:
    """Chooses between candidates by everything that is known of a checkpoint."""

    checkpoint: Checkpoint
    catalog: Catalog
    recorded: Mapping[str, NamedLayout]
    """The layouts by the record of the checkpoint, by the pattern of each stack."""
    family: Family | None
    names: Form
    """The form whose names the tensors have."""
    declared_layout: str | None
    """The form or layout that the user says the checkpoint has."""

    def choose(self, experts: ModuleExperts) -> Candidate:
        """Return the candidate whose layout and naming these experts have.

        Raises:
            BadCheckpoint: No layout fits, or none that the record allows.
            PlanRefused: Several layouts fit, and nothing tells which it is; or none has a place
                for a companion of a weight.
        """
        by_layout = {candidate.row.layout.name: candidate for candidate in experts.candidates}
        subject = f"{quoted(experts.pattern)}experts ({quoted(experts.shapes)})"
        if experts.misfit is not None:
            companion, weight = experts.misfit
            raise PlanRefused(
                f"tensor {quoted(companion.name)} is {companion.dtype} {list(companion.shape)} and "
                f"belongs to {quoted(weight.name)} {list(weight.shape)}: no layout has a place for "
                "that shape",
                "add --pass-through to leave such experts as they are",
            )
        if experts.packed is not None:
            raise PlanRefused(
                f"tensor {quoted(experts.packed.name)} is {experts.packed.dtype} "
                f"{list(experts.packed.shape)}: its elements are codes, and no layout describes "
                "experts that are packed like this",
                "add --pass-through to leave such experts as they are",
            )
        if not by_layout:
            raise BadCheckpoint(f"{subject} fits no layout: the shapes of its weights disagree")
        chosen = by_layout[self._layout_name(experts.pattern, subject, tuple(by_layout))]
        naming = chosen.row.naming
        if not chosen.row.names_projections():
            naming = self.target_naming(experts.pattern, naming)
        return replace(chosen, row=replace(chosen.row, naming=naming))

    def check_declared(self, choices: Sequence[Candidate]) -> None:
        """Raise PlanRefused if `--from` contradicts what the checkpoint itself says."""
        chosen = {choice.pattern: choice.row.layout.name for choice in choices}
        declared = {pattern: self._declared_for(pattern) for pattern in chosen}
        wrong = {p: name for p, name in declared.items() if name not in (None, chosen[p])}
        if wrong and (self.declared_layout in FORMS or len(wrong) == len(declared)):
            pattern, name = next(iter(wrong.items()))
            raise PlanRefused(
                f"{quoted(pattern)}experts of {self.checkpoint.location} is {chosen[pattern]}, "
                f"--from says {name}",
                "leave out --from",
            )

    def _layout_name(self, pattern: str, subject: str, fitting: tuple[str, ...]) -> str:
        recorded = self.recorded.get(pattern)
        if recorded is not None:
            if recorded.layout.name not in fitting:
                raise BadCheckpoint(
                    f"{subject} is {recorded.layout.name} by its record, "
                    f"its shapes fit {' and '.join(fitting)}"
                )
            return recorded.layout.name
        if len(fitting) == 1:
            return fitting[0]
        stacks = self.family.stacks if self.family else ()
        is_own = pattern in stacks or self.names.name != HUB_NAMES.name
        by_names = self._likely(self.names.layouts_of(pattern)) if is_own else []
        declared = self._declared_for(pattern)
        for name in (*by_names, declared, self._agreed(fitting)):
            if name in fitting:
                return str(name)
        uses = (f"--from {name} ({'; '.join(self._uses(name))})" for name in fitting)
        raise PlanRefused(
            f"{subject} fits {' and '.join(fitting)} alike, and nothing in the checkpoint says "
            "which",
            f"find out what wrote it, because the other choice gives wrong experts, and add one "
            f"of {', '.join(uses)}",
        )

    def _agreed(self, fitting: tuple[str, ...]) -> str | None:
        """Return the one fitting layout that the forms of the families have, or None.

        It has to be the layout on the hub, and no form may have another one of the fitting layouts.
        The families are those of the model and of the language model in it.
        """
        published: set[str] = set()
        found: set[str] = set()
        for family in self._families().values():
            for form in family.forms.values():
                names = {name for _, layouts in form.layouts for name in self._likely(layouts)}
                found |= names
                published |= names if form.name == HUB_NAMES.name else set()
        found &= set(fitting)
        return next(iter(found)) if len(found) == 1 and found <= published else None

    def _likely(self, layouts: Sequence[Layout]) -> list[str]:
        """Return those of the layouts that a stack can have in a form that may be this model's.

        The first is. The others are those of some of the models that the family may hold: it holds
        this one if config.json names a family that has such a layout and no other.
        """
        if len(layouts) < 2:
            return [layout.name for layout in layouts]
        settled = {
            alone.name
            for family in self._families().values()
            for form in family.forms.values()
            for _, possible in form.layouts
            for alone in (possible if len(possible) == 1 else ())
        }
        first, *others = (layout.name for layout in layouts)
        return [first, *(name for name in others if name in settled)]

    def _families(self) -> dict[str, Family]:
        """Return the families that config.json names, by their model types.

        Those are the families of the model and of the language models in it.
        """
        config = self.checkpoint.config
        types = [config_value(config, f"{section}.model_type") for section in TEXT_SECTIONS]
        families = {name: self.catalog.find_family(name) for name in types if isinstance(name, str)}
        return {name: family for name, family in families.items() if family}

    def _uses(self, layout: str) -> Iterator[str]:
        """Yield who uses a layout, and the forms of the model's families that have it."""
        yield self.catalog.layouts[layout].used_by
        for model_type, family in self._families().items():
            for form in family.forms.values():
                if any(layout == known.name for _, all_of in form.layouts for known in all_of):
                    yield f"the form {form.name} of {quoted(model_type)}"

    def _declared_for(self, pattern: str) -> str | None:
        """Return the layout that `--from` means for a stack, or None if it means none."""
        if self.declared_layout not in FORMS:
            return self.declared_layout
        form = self.family.forms.get(self.declared_layout) if self.family else None
        layout = form.layout_of(pattern) if form else None
        return layout.name if layout else None

    def target_naming(self, pattern: str, own: Naming) -> Naming:
        """Return the naming of a stack in a layout that names the projections.

        That is the naming in the checkpoint's record, else the template's, else the family's. A
        naming with another number of projections is ignored.

        Args:
            pattern: The pattern of the stack.
            own: The naming of its tensors, which is kept if nothing else decides.
        """
        recorded, template = self.recorded.get(pattern), self.checkpoint.template
        named = template.namings.get(pattern, "") if template else ""
        namings = (
            recorded.naming if recorded else None,
            self.catalog.namings.get(named),
            self.family.naming if self.family else None,
        )
        alike = (n for n in namings if n is not None and n.is_interchangeable(own))
        return next(alike, own)


def recorded_layouts(checkpoint: Checkpoint, catalog: Catalog) -> dict[str, NamedLayout]:
    """Look up the layouts that a checkpoint records, by the pattern of each stack.

    Raises BadCheckpoint if the catalog has no such layout or naming.
    """
    found: dict[str, NamedLayout] = {}
    for pattern, names in checkpoint.record.stacks.items() if checkpoint.record else ():
        layout, naming = catalog.layouts.get(names.layout), catalog.namings.get(names.naming)
        if layout is None or naming is None:
            unknown = names.layout if layout is None else names.naming
            raise BadCheckpoint(
                f"{checkpoint.location}: its record of layouts names {quoted(unknown)}, which is "
                "not known",
                "give the file that describes it with --family, use a newer streamconv, or remove "
                "the record and name the layout with --from",
            )
        found[pattern] = NamedLayout(layout, naming)
    return found
