"""The form whose names the emitted tensors have, found out name by name.

A checkpoint has the form that most of its tensors have their own names of. Here the names arrive
one by one, so the first name that two forms understand in different ways settles the form. If a
later name is of another form, that is an error: tensors have been yielded by then.
"""

from collections.abc import Mapping
from typing import Any

from streamconv.catalog.families import FORMS, HUB_NAMES, Family, Form
from streamconv.checkpoint.types import TensorInfo
from streamconv.detection.detect_form import count_own_names, find_names, undo_renames
from streamconv.detection.group_names import GroupTensors, groups_of
from streamconv.errors import BadCheckpoint, PlanRefused, quoted
from streamconv.relaying.headers import checkpoint_of

_HINT = "name the form of the tensors with `source`"


class SourceNames:
    """Finds the hub names of tensors, and the form that their names have."""

    def __init__(
        self, family: Family | None, declared: str | None, config: Mapping[str, Any]
    ) -> None:
        """Prepare for names of any form of a family.

        Args:
            family: The family of the model.
            declared: The form or layout that the user says the tensors have.
            config: Content of config.json.

        Raises:
            PlanRefused: The family does not have the form.
        """
        self._family = family
        self._config = config
        forms = tuple(family.forms.values()) if family else (HUB_NAMES,)
        if declared in FORMS:
            forms = (find_names(checkpoint_of((), config), family, declared),)
        self._counts = dict.fromkeys(_distinct(forms), 0)
        """The forms that all names until now could be of, each with its count of own names."""
        self._finders = {
            form: GroupTensors({g: form.layout_for(g) for g in groups_of(family.forms)})
            for form in self._counts
            if family
        }
        self._settled: tuple[Form, str] | None = None
        """The form of the names, and the name that settled it."""

    @property
    def possible(self) -> tuple[Form, ...]:
        """The forms that the names until now can have, the likeliest first."""
        if self._settled:
            return (self._settled[0],)
        return tuple(sorted(self._counts, key=lambda form: -self._counts[form]))

    def hub_name(self, info: TensorInfo) -> str:
        """Return the hub name of a tensor.

        Raises:
            BadCheckpoint: No form gives such a name, or only other forms than the settled one.
            PlanRefused: Two forms understand it in different ways, and nothing tells which one.
        """
        if len(self._counts) > 1:
            self._count(info.name)
        form = self.possible[0]
        (hub_name,) = undo_renames(form, self._family, checkpoint_of([info], self._config))
        return hub_name

    def _count(self, name: str) -> None:
        """Drop the forms that give no such name, and settle the form if `name` decides it."""
        found = {form: count_own_names(form, [name]) for form in self._counts}
        left = {form: self._counts[form] + n for form, n in found.items() if n >= 0}
        likely = max(left, key=lambda form: left[form], default=None)
        if self._settled:
            form, settling = self._settled
            if likely is not form and (likely is None or left[likely] > left.get(form, -1)):
                raise BadCheckpoint(
                    f"tensor {quoted(name)} is not a name of the form {form.name!r}, and "
                    f"{quoted(settling)} is one",
                    _HINT,
                )
        if likely is None:
            return
        self._counts = left
        if not self._settled and len({self._understood(form, name) for form in left}) > 1:
            if left[likely] and sum(count == left[likely] for count in left.values()) > 1:
                forms = " and ".join(form.name for form in left)
                raise PlanRefused(
                    f"cannot tell the form of {quoted(name)}: {forms} give such a name to "
                    "different tensors",
                    _HINT,
                )
            self._settled = likely, name

    def _understood(self, form: Form, name: str) -> tuple[str, object]:
        """Return the hub name in a form, and the group that the tensor would belong to."""
        hub_name = form.undo(name)
        finder = self._finders.get(form)
        return hub_name, finder.find(hub_name) if finder else None


def _distinct(forms: tuple[Form, ...]) -> tuple[Form, ...]:
    """Return the forms without those that give the same names as an earlier one."""
    return tuple({(form.renames, form.groups): form for form in reversed(forms)}.values())[::-1]
