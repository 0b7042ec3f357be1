"""Plans what the emitted tensors become, module by module, as a conversion of a file plans it.

A conversion knows every tensor before it begins. Here, the experts of a layer are predicted from
those that have come, and the prediction is detected and planned. The result holds for every layer
that is alike, so it is kept.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from streamconv.catalog.catalog import Catalog
from streamconv.catalog.companions import stem_of
from streamconv.catalog.families import FORMS, SAME, Form
from streamconv.catalog.layouts import NamedLayout
from streamconv.catalog.routers import router_weights
from streamconv.checkpoint.layout_record import LayoutNames
from streamconv.checkpoint.tensor_names import pattern_of
from streamconv.checkpoint.types import TensorInfo
from streamconv.detection.expert_counts import ExpertCounts
from streamconv.errors import BadCheckpoint, PlanRefused, StreamconvError, UsageError, quoted
from streamconv.options import LazyOptions
from streamconv.planning.build import Outputs, build_outputs
from streamconv.relaying.headers import checkpoint_of
from streamconv.relaying.module_plan import ModulePlan, plan_module
from streamconv.relaying.prediction import Found, Prediction, predict
from streamconv.relaying.source_names import SourceNames

MAX_EXPERTS = 2**16
"""More than any layer has. A larger number in config.json counts as none."""


@dataclass(frozen=True, slots=True)
class RelayRequest:
    """What a user asks for."""

    source: str | None
    """The form or layout that the tensors have, if the user names it."""
    to: str
    config: Mapping[str, Any]
    views: bool
    max_open_layers: int


@dataclass(frozen=True, slots=True)
class _Settled:
    """The layout of a stack, and the layer that showed it."""

    prefix: str
    row: NamedLayout
    names: LayoutNames
    infos: tuple[TensorInfo, ...]
    """The experts of that layer, predicted ones too: other layers have to be alike."""


class Planner:
    """Plans modules and other tensors of one stream."""

    def __init__(self, request: RelayRequest, catalog: Catalog) -> None:
        """Prepare for a stream.

        Raises:
            UsageError: There is no such form or layout, or nothing would change.
            PlanRefused: The family has no such form, or its experts cannot be converted.
        """
        if request.to == SAME:
            raise UsageError(
                f"cannot relay to {SAME!r}: all tensors would stay as they are",
                "name a form or a layout",
            )
        self._request = request
        self._catalog = catalog
        self.family = catalog.find_family(request.config.get("model_type"))
        self.names = SourceNames(self.family, request.source, request.config)
        self._plans: dict[tuple[object, ...], ModulePlan | None] = {}
        self._settled: dict[str, _Settled] = {}
        self._others: dict[str, TensorInfo] = {}
        """The tensors in no module, by hub name."""
        self._by_stem: dict[str, list[TensorInfo]] = {}
        self._target: Form | None = None
        self._convert(self.names.possible[0], (), request.source)

    # --- tensors in no module ------------------------------------------------------------------

    def name_other(self, hub_name: str, info: TensorInfo) -> str:
        """Return the name that a tensor in no module gets.

        Raises:
            PlanRefused: The conversion would part it from its weight, or take its name.
            BadCheckpoint: config.json lacks a size that its group needs.
        """
        stem = self._by_stem.setdefault(stem_of(hub_name), [])
        outputs = self._convert(self.names.possible[0], (*stem, info))
        stem.append(info)
        self._others[hub_name] = info
        steps = (outputs.steps[number] for number in range(len(outputs.steps)))
        return next(step.name for step in steps if step.inputs[0].name == info.name)

    # --- groups --------------------------------------------------------------------------------

    def plan_group(self, prefix: str, row: NamedLayout, infos: Sequence[TensorInfo]) -> ModulePlan:
        """Return what a group becomes.

        Args:
            prefix: The prefix of its module.
            row: The layout that it is stored in.
            infos: All of its tensors.

        Raises:
            BadCheckpoint: They do not fit together.
            PlanRefused: The conversion is impossible.
        """
        outputs = self._convert(self.names.possible[0], infos)
        stack, module = next(
            (stack, module)
            for stack in outputs.source.groups
            for module in stack.modules
            if module.prefix == prefix and stack.row == row
        )
        return plan_module(outputs, stack, module)

    # --- experts -------------------------------------------------------------------------------

    def plan_experts(
        self, prefix: str, found: Found, *, is_final: bool = False
    ) -> ModulePlan | None:
        """Return what the experts of a layer become, or None if that is not settled yet.

        Args:
            prefix: The prefix of their module.
            found: What has come of them.
            is_final: True if no further kinds of weights will come.

        Raises:
            BadCheckpoint: They contradict each other, other layers, or config.json.
            PlanRefused: The conversion is impossible.
        """
        pattern = pattern_of(prefix)
        settled = self._settled.get(pattern)
        alike = tuple(sorted((key, info.shape, info.dtype) for key, (_, info) in found.items()))
        forms = tuple(form.name for form in self.names.possible)
        signature = (
            pattern,
            forms,
            settled and settled.names,
            self._counts(prefix),
            alike,
            is_final,
        )
        if signature not in self._plans:
            self._plans[signature] = self._plan_experts(prefix, pattern, found, is_final)
        return self._plans[signature]

    def missing_experts(self, prefix: str, found: Found) -> tuple[list[str], list[str]]:
        """Return the layouts that some experts may have, and the tensors that they would have.

        Args:
            prefix: The prefix of their module.
            found: What has come of them.

        Returns:
            The names of the layouts, and the names of the tensors below the module.
        """
        predictions = [
            (row, each) for row in _rows(found) for each in self._predict(prefix, found, row)
        ]
        layouts = dict.fromkeys(row.layout.name for row, _ in predictions)
        return [*layouts], [*dict.fromkeys(n for _, each in predictions for n in each.infos or ())]

    def _plan_experts(
        self, prefix: str, pattern: str, found: Found, is_final: bool
    ) -> ModulePlan | None:
        if not self._counts(prefix) and any("*" in name for name in found):
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
        """Return the layouts that have all names: the one that other layers or the user name."""
        settled = self._settled.get(pattern)
        rows = [settled.row] if settled else _rows(found)
        declared = self._declared(pattern)
        return [row for row in rows if row.layout.name in declared] or rows

    def _source_of(self, pattern: str, row: NamedLayout) -> str | None:
        """Return what the user says of a stack, if that is of this stack.

        A layout may be that of another stack, if that one has shown it.
        """
        source = self._request.source
        others = (settled for p, settled in self._settled.items() if p != pattern)
        is_other = any(settled.names.layout == source for settled in others)
        return None if is_other and row.layout.name != source else source

    def _declared(self, pattern: str) -> tuple[str, ...]:
        """Return the layouts of a stack that the user names."""
        source = self._request.source
        if source in FORMS and self.family:
            return tuple(each.name for each in self.family.forms[source].layouts_of(pattern))
        return (source,) if source else ()

    def _plan_as(
        self, prefix: str, row: NamedLayout, infos: Mapping[str, TensorInfo]
    ) -> tuple[ModulePlan, _Settled] | None:
        """Plan experts that were predicted in a layout; return None if they would have another.

        Raises what a conversion of such a checkpoint raises.
        """
        pattern = pattern_of(prefix)
        settled = self._settled.get(pattern)
        plan = None
        for form in self.names.possible:
            own = tuple(
                info._replace(name=form.apply(prefix + suffix)) for suffix, info in infos.items()
            )
            others = settled.infos if settled and settled.prefix != prefix else ()
            routers = self._routers(prefix, *([settled.prefix] if settled else []))
            outputs = self._convert(form, (*own, *others, *routers), self._source_of(pattern, row))
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
            "name another layout with `source`" if self._request.source else "",
        )

    def _predict(self, prefix: str, found: Found, row: NamedLayout) -> Iterator[Prediction]:
        counts = self._counts(prefix)
        return predict(found, row, self._catalog.required_weight_pairs, counts)

    def _counts(self, prefix: str) -> tuple[int, ...]:
        """Return the numbers of experts that a layer may have."""
        routers = {name: self._others[name] for name in self._router_names(prefix)}
        counts = ExpertCounts(self._request.config, self.family, routers)
        expected = counts.expected(prefix, pattern_of(prefix))
        return tuple(count for count in expected if 0 < count <= MAX_EXPERTS)

    def _routers(self, *prefixes: str) -> tuple[TensorInfo, ...]:
        """Return the routers of some layers that have come."""
        names = dict.fromkeys(name for p in prefixes for name in self._router_names(p))
        return tuple(self._others[name] for name in names)

    def _router_names(self, prefix: str) -> list[str]:
        return [prefix + name for name in router_weights() if prefix + name in self._others]

    # --- a conversion of what is known ---------------------------------------------------------

    def _convert(
        self, form: Form, infos: Iterable[TensorInfo], source: str | None = None
    ) -> Outputs:
        """Plan the conversion of a checkpoint that holds some tensors, whose names have a form.

        `source` is the form or layout of their experts, if the user names it.

        Raises what a conversion of such a checkpoint raises, and PlanRefused if it would have
        another form than what was yielded before.
        """
        request = self._request
        stacks = {pattern: settled.names for pattern, settled in self._settled.items()}
        checkpoint = checkpoint_of(infos, request.config, form.name, stacks)
        options: LazyOptions = {"source_layout": source}
        try:
            outputs = build_outputs(checkpoint, self._catalog, request.to, options, is_part=True)
        except (BadCheckpoint, PlanRefused) as error:
            raise _in_python(error) from None
        names = outputs.target.names
        if request.to in FORMS:
            self._target = self._target or names
            if names is not self._target:
                raise PlanRefused(
                    f"cannot relay to the form {request.to!r}: transformers loads such quantized "
                    f"experts under the names of the form {names.name!r} only",
                    f"relay to the form {names.name!r}",
                )
        return outputs


def _in_python(error: StreamconvError) -> StreamconvError:
    """Return an error without options of the command line that have no place here."""
    message, hint = (
        re.sub(r"--from (?!says)(\S+)", r"source='\1'", text).replace(
            "--from says", "`source` says"
        )
        for text in (error.message, error.hint)
    )
    return type(error)(message, "" if "--" in hint else hint)


def _rows(found: Found) -> list[NamedLayout]:
    """Return every layout that has all names."""
    rows = [dict.fromkeys(match.row for match in key.matches) for key, _ in found.values()]
    return [row for row in rows[0] if all(row in others for others in rows)]
