"""Plans the conversion of the emitted tensors with the planner of files."""

from collections.abc import Iterable, Sequence

from streamconv.catalog.catalog import Catalog
from streamconv.catalog.companions import stem_of
from streamconv.catalog.families import SAME
from streamconv.catalog.layouts import NamedLayout
from streamconv.checkpoint.types import TensorInfo
from streamconv.errors import UsageError
from streamconv.planning.build import Outputs
from streamconv.relaying.expert_planner import ExpertPlanner
from streamconv.relaying.module_plan import ModulePlan, plan_module
from streamconv.relaying.partial_conversion import PartialConversion
from streamconv.relaying.request import RelayRequest
from streamconv.relaying.routers import Routers
from streamconv.relaying.source_names import SourceNames


class Planner:
    """Plans the experts, the groups and the other tensors of one stream."""

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
        self.family = catalog.find_family(request.config.get("model_type"))
        self.names = SourceNames(self.family, request.source, request.config)
        self._others: dict[str, TensorInfo] = {}
        """The tensors in no module, by hub name."""
        self._by_stem: dict[str, list[TensorInfo]] = {}
        """The same tensors, by stem."""
        self._conversion = PartialConversion(request, catalog)
        routers = Routers(request.config, self.family, self._others)
        self.experts = ExpertPlanner(
            request.source, catalog, self.family, self.names, routers, self._conversion
        )
        self._convert((), request.source)

    def name_other(self, hub_name: str, info: TensorInfo) -> str:
        """Return the name that a tensor in no module gets.

        Raises:
            PlanRefused: The conversion would separate it from its weight, or needs its name.
            BadCheckpoint: config.json lacks a size that its group needs.
        """
        stem = self._by_stem.setdefault(stem_of(hub_name), [])
        outputs = self._convert((*stem, info))
        stem.append(info)
        self._others[hub_name] = info
        steps = (outputs.steps[number] for number in range(len(outputs.steps)))
        return next(step.name for step in steps if step.inputs[0].name == info.name)

    def plan_group(self, prefix: str, row: NamedLayout, infos: Sequence[TensorInfo]) -> ModulePlan:
        """Return the plan for a group.

        Args:
            prefix: The prefix of its module.
            row: The layout that it is stored in.
            infos: All of its tensors.

        Raises:
            BadCheckpoint: They do not fit together.
            PlanRefused: The conversion is impossible.
        """
        outputs = self._convert(infos)
        stack, module = next(
            (stack, module)
            for stack in outputs.source.groups
            for module in stack.modules
            if module.prefix == prefix and stack.row == row
        )
        return plan_module(outputs, stack, module)

    def _convert(self, infos: Iterable[TensorInfo], source: str | None = None) -> Outputs:
        """Plan tensors under the names of the likeliest form."""
        return self._conversion.plan(self.names.possible[0], infos, self.experts.layouts, source)
