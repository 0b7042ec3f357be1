"""Plans the conversion of a layer's experts when only some of their tensors have arrived.

A conversion knows every tensor before it begins. Here, the missing tensors of a layer are predicted
from those that have arrived, and the prediction is detected and planned. The plan is kept, because
it is the same for every layer that is alike.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from streamconv.catalog.catalog import Catalog
from streamconv.catalog.families import FORMS, Family
from streamconv.catalog.layouts import NamedLayout
from streamconv.checkpoint.layout_record import LayoutNames
from streamconv.checkpoint.tensor_names import pattern_of
from streamconv.checkpoint.types import TensorInfo
from streamconv.errors import BadCheckpoint, StreamconvError, quoted
from streamconv.relaying.module_plan import ModulePlan, plan_module
from streamconv.relaying.partial_conversion import PartialConversion
from streamconv.relaying.prediction import Found, Prediction, predict
from streamconv.relaying.routers import Routers
from streamconv.relaying.source_names import SourceNames


@dataclass(frozen=True, slots=True)
class _Settled:
    """The layout of a stack, and the layer that showed it."""

    prefix: str
    row: NamedLayout
    names: LayoutNames
    infos: tuple[TensorInfo, ...]
    """The experts of that layer, including predicted ones. Other layers have to be alike."""


class ExpertPlanner:
    """Plans the experts of all layers of one stream."""

    def __init__(
        self,
        source: str | None,
        catalog: Catalog,
        family: Family | None,
        names: SourceNames,
        routers: Routers,
        conversion: PartialConversion,
    ) -> None:
        """Prepare for a stream.

        Args:
            source: The form or layout that the tensors have, if the user names it.
            catalog: The known layouts.
            family: The family of the model.
            names: The form whose names the tensors have.
            routers: The routers that have arrived.
            conversion: Plans the conversion of predicted tensors.
        """
        self._source = source
        self._catalog = catalog
        self._family = family
        self._names = names
        self._routers = routers
        self._conversion = conversion
        self._plans: dict[tuple[object, ...], ModulePlan | None] = {}
        self._settled: dict[str, _Settled] = {}

    @property
    def layouts(self) -> dict[str, LayoutNames]:
        """The layouts that are settled, by the pattern of each stack."""
        return {pattern: settled.names for pattern, settled in self._settled.items()}

    def plan(self, prefix: str, found: Found, *, is_final: bool = False) -> ModulePlan | None:
        """Return the plan for the experts of a layer, or None if it is not settled yet.

        Args:
            prefix: The prefix of their module.
            found: Those of their tensors that have arrived.
            is_final: True if no further kinds of weights will arrive.

        Raises:
            BadCheckpoint: They contradict each other, other layers, or config.json.
            PlanRefused: The conversion is impossible.
        """
        pattern = pattern_of(prefix)
        settled = self._settled.get(pattern)
        alike = tuple(sorted((key, info.shape, info.dtype) for key, (_, info) in found.items()))
        forms = tuple(form.name for form in self._names.possible)
        signature = (
            pattern,
            forms,
            settled and settled.names,
            self._routers.expert_counts(prefix),
            alike,
            is_final,
        )
        if signature not in self._plans:
            self._plans[signature] = self._plan(prefix, pattern, found, is_final)
        return self._plans[signature]

    def missing(self, prefix: str, found: Found) -> tuple[list[str], list[str]]:
        """Return the layouts that some experts may have, and the tensors that they then consist of.

        Args:
            prefix: The prefix of their module.
            found: Those of their tensors that have arrived.

        Returns:
            The names of the layouts, and the names of the tensors below the module.
        """
        predictions = [
            (row, each) for row in _rows(found) for each in self._predict(prefix, found, row)
        ]
        layouts = dict.fromkeys(row.layout.name for row, _ in predictions)
        return [*layouts], [*dict.fromkeys(n for _, each in predictions for n in each.infos or ())]

    def _plan(self, prefix: str, pattern: str, found: Found, is_final: bool) -> ModulePlan | None:
        if not self._routers.expert_counts(prefix) and any("*" in name for name in found):
            raise BadCheckpoint(
                f"cannot tell when {quoted(prefix)}experts is complete: the config does not say "
                "how many experts there are",
                "give a config that counts them, such as that of the model",
            )
        rows = self._likely_rows(pattern, found)
        possible = {row: each for row in rows if (each := [*self._predict(prefix, found, row)])}
        complete = {r: each for r, each in possible.items() if any(p.is_complete for p in each)}
        waits = not is_final and not all(p.is_plain for each in possible.values() for p in each)
        if (waits or len(possible) > 1) and not complete:
            return None
        planned: list[tuple[ModulePlan, _Settled]] = []
        errors: list[StreamconvError] = []
        for row, predictions in (complete or possible).items():
            for prediction in predictions:
                if prediction.infos is None:
                    return None
                try:
                    plan = self._plan_as(prefix, row, prediction.infos)
                except StreamconvError as error:
                    errors.append(error)
                else:
                    planned += [plan] if plan else []
                    break
        if not planned:
            if waits:
                return None
            raise errors[0] if errors else self._fits_nothing(prefix, found, rows)
        only, showing = planned[0]
        self._settled.setdefault(pattern, showing)
        return only

    def _likely_rows(self, pattern: str, found: Found) -> list[NamedLayout]:
        """Return the layouts that have all names, or only the one by other layers or the user."""
        settled = self._settled.get(pattern)
        rows = [settled.row] if settled else _rows(found)
        declared = self._declared(pattern)
        return [row for row in rows if row.layout.name in declared] or rows

    def _source_of(self, pattern: str, row: NamedLayout) -> str | None:
        """Return the form or layout that the user names, unless it is meant for another stack.

        That is so if another stack has turned out to have it, and this one has another layout.
        """
        source = self._source
        others = (settled for p, settled in self._settled.items() if p != pattern)
        is_other = any(settled.names.layout == source for settled in others)
        return None if is_other and row.layout.name != source else source

    def _declared(self, pattern: str) -> tuple[str, ...]:
        """Return the layouts of a stack that the user names."""
        source = self._source
        if source in FORMS and self._family:
            return tuple(each.name for each in self._family.forms[source].layouts_of(pattern))
        return (source,) if source else ()

    def _plan_as(
        self, prefix: str, row: NamedLayout, infos: Mapping[str, TensorInfo]
    ) -> tuple[ModulePlan, _Settled] | None:
        """Plan experts that were predicted in a layout; return None if another one is detected.

        Raises the errors of a conversion of such a checkpoint.
        """
        pattern = pattern_of(prefix)
        settled = self._settled.get(pattern)
        plan = None
        for form in self._names.possible:
            own = tuple(
                info._replace(name=form.apply(prefix + suffix)) for suffix, info in infos.items()
            )
            others = settled.infos if settled and settled.prefix != prefix else ()
            routers = self._routers.of_layers(prefix, *([settled.prefix] if settled else []))
            outputs = self._conversion.plan(
                form,
                (*own, *others, *routers),
                self.layouts,
                self._source_of(pattern, row),
            )
            modules = ((stack, m) for stack in outputs.source.stacks for m in stack.modules)
            stack, module = next(each for each in modules if each[1].prefix == prefix)
            if stack.row.layout is not row.layout:
                return None
            if plan is None:
                showing = _Settled(prefix, row, LayoutNames.of(stack.row), own)
                plan = plan_module(outputs, stack, module), showing
        return plan

    def _fits_nothing(
        self, prefix: str, found: Found, rows: Iterable[NamedLayout]
    ) -> StreamconvError:
        """Return the error for experts whose shapes fit none of some layouts."""
        layouts = " or ".join(dict.fromkeys(row.layout.name for row in rows)) or "any layout"
        infos = [info for _, info in found.values()]
        shown = ", ".join(f"{quoted(i.name)} is {i.dtype} {list(i.shape)}" for i in infos)
        return BadCheckpoint(
            f"{quoted(prefix)}experts does not fit {layouts}: {shown}",
            "name another layout with `source`" if self._source else "",
        )

    def _predict(self, prefix: str, found: Found, row: NamedLayout) -> Iterator[Prediction]:
        counts = self._routers.expert_counts(prefix)
        return predict(found, row, self._catalog.required_weight_pairs, counts)


def _rows(found: Found) -> list[NamedLayout]:
    """Return every layout that has all of the names."""
    rows = [dict.fromkeys(match.row for match in key.matches) for key, _ in found.values()]
    return [row for row in rows[0] if all(row in others for others in rows)]
