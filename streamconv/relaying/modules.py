"""Finds the module that an emitted tensor belongs to: experts of a layer, a group, or none."""

from collections.abc import Mapping
from dataclasses import dataclass

from streamconv.catalog.catalog import Catalog
from streamconv.catalog.families import Family, Form
from streamconv.catalog.groups import Group
from streamconv.catalog.layouts import NamedLayout
from streamconv.catalog.name_lookup import NameMatch
from streamconv.checkpoint.tensor_names import pattern_of
from streamconv.checkpoint.types import TensorInfo
from streamconv.detection.expert_names import find_modules
from streamconv.detection.group_names import GroupTensor, GroupTensors, groups_of
from streamconv.detection.refusals import Refusals


@dataclass(frozen=True, slots=True)
class ExpertKey:
    """The name of an expert's tensor below its module, and what it can mean."""

    name: str
    """With * for the expert's number."""
    matches: tuple[NameMatch, ...]

    def with_number(self, number: int | None) -> str:
        """Return the name of the tensor of one expert."""
        return self.name if number is None else self.name.replace("*", str(number))


class ModuleFinder:
    """Finds the module of a tensor by its hub name."""

    def __init__(self, catalog: Catalog, family: Family | None) -> None:
        self._family = family
        naming = family.naming if family and not family.naming.auto_detect else None
        self._known = catalog.names_to_weights(naming)
        self._keys: dict[str, ExpertKey | None] = {}
        """By the pattern of a name."""
        self._groups: dict[str, tuple[Mapping[Group, NamedLayout], GroupTensors]] = {}
        """By the name of the form that the tensors have."""

    def expert(self, hub_name: str, info: TensorInfo) -> tuple[str, ExpertKey] | None:
        """Return the prefix of a tensor's experts, and its name below; None if it is of none.

        Raises BadCheckpoint if an expert is not numbered 0, 1, 2 and so on.
        """
        pattern = pattern_of(hub_name)
        if pattern not in self._keys:
            modules, _ = find_modules([(hub_name, info)], self._known, Refusals(collects=False))
            matches = [item for named in modules.values() for item in named.matches.items()]
            self._keys[pattern] = ExpertKey(*matches[0]) if matches else None
        found = self._keys[pattern]
        if found is None:
            return None
        parts = hub_name.split(".")
        return ".".join([*parts[: -1 - found.name.count(".")], ""]), found

    def group(self, hub_name: str, form: Form) -> tuple[GroupTensor, NamedLayout] | None:
        """Return the group's tensor with this hub name, and the layout of the group, or None."""
        if self._family is None:
            return None
        if form.name not in self._groups:
            made = {group: form.layout_for(group) for group in groups_of(self._family.forms)}
            self._groups[form.name] = made, GroupTensors(made)
        rows, finder = self._groups[form.name]
        found = finder.find(hub_name)
        return (found, rows[found.group]) if found else None
