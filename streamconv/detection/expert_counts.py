"""Compare the number of experts with the rows of their router, and with config.json.

The router of a layer is the best evidence of its number of experts. config.json may have one number
for layers that differ, several contradicting ones, or one from before experts were pruned.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from streamconv.catalog.families import COUNT_KEYS, Family
from streamconv.catalog.routers import router_weights
from streamconv.catalog.templates import EXPERT
from streamconv.checkpoint.config import TEXT_SECTIONS, config_value
from streamconv.checkpoint.types import TensorInfo
from streamconv.detection.refusals import Refusals
from streamconv.detection.routed_modules import RoutedModules
from streamconv.detection.stacks import Module, Stack
from streamconv.errors import BadCheckpoint, quoted


@dataclass(frozen=True, slots=True)
class ExpertCounts:
    """The numbers of experts that config.json and the routers give."""

    config: Mapping[str, Any]
    family: Family | None
    hub_names: Mapping[str, TensorInfo]
    """Every tensor by its hub name."""

    def possible(self, prefix: str, pattern: str) -> tuple[int, ...]:
        """Return how many experts a module may have, for layouts whose shapes do not settle it.

        Args:
            prefix: The prefix of the module, in hub names.
            pattern: The same with * for numbers.
        """
        router = self._router(prefix)
        section = self.family.stacks.get(pattern) if self.family else None
        counts = [count for _, count in self._counts(section)] if section is not None else []
        return tuple(dict.fromkeys([*(router.shape[:1] if router else ()), *counts]))

    def expected(self, prefix: str, pattern: str) -> tuple[int, ...]:
        """Return how many experts a module may have if only a part of it is known.

        These are the numbers of `possible`, or else all that config.json has.

        Args:
            prefix: The prefix of the module, in hub names.
            pattern: The same with * for numbers.
        """
        sections = self.family.stacks.values() if self.family else TEXT_SECTIONS
        counts = (count for path in sections for _, count in self._counts(path))
        return self.possible(prefix, pattern) or tuple(dict.fromkeys(counts))

    def stated(self) -> tuple[str, ...]:
        """Return what config.json says of numbers of experts, for messages."""
        sections = self.family.stacks.values() if self.family else TEXT_SECTIONS
        counts = dict(item for path in dict.fromkeys(sections) for item in self._counts(path))
        return tuple(f"{key} = {count}" for key, count in counts.items() if count > 0)

    def check(self, stacks: Iterable[Stack], refusals: Refusals) -> frozenset[str]:
        """Return the patterns of the stacks whose number of experts something else confirms.

        For an unknown model type, config.json is only compared if all experts are in stacks of one
        pattern: it does not say which of several it describes.

        A pattern is refused if

        - a router has another number of rows than its module has experts, or its module is missing;
        - config.json gives another number, and no router confirms the number of experts;
        - the numbers of layers differ, and no router confirms that.
        """
        by_pattern: dict[str, list[Stack]] = {}
        for stack in stacks:
            by_pattern.setdefault(stack.pattern, []).append(stack)
        counted = set()
        next_to = RoutedModules.of(self.hub_names)
        for pattern, alike in by_pattern.items():
            try:
                is_only = len(by_pattern) == 1
                if self._is_counted(pattern, alike, next_to, is_only=is_only):
                    counted.add(pattern)
            except BadCheckpoint as error:
                refusals.add(pattern, error)
        return frozenset(counted)

    def _is_counted(
        self, pattern: str, stacks: list[Stack], next_to: "RoutedModules", *, is_only: bool
    ) -> bool:
        """Return True if config.json or routers count the experts of a pattern's stacks.

        Args:
            pattern: The pattern.
            stacks: Its stacks.
            next_to: What all modules have next to their experts.
            is_only: True if there is no other pattern.
        """
        section = self.family.stacks.get(pattern) if self.family else None
        sections = (section,) if section is not None else TEXT_SECTIONS if is_only else ()
        stated = dict(item for path in sections for item in self._counts(path))
        modules = [(stack, module) for stack in stacks for module in stack.modules]
        checked = [self._check_router(*each, stated, next_to) for each in modules]
        confirmed = bool(checked) and all(checked)
        self._check_lost(next_to.routed.get(pattern, ()), stacks)
        found = {stack.sizes[EXPERT] for stack in stacks}
        if len(found) > 1 and not confirmed:
            raise _uneven(stacks)
        if len(found) > 1 or not stated:
            return confirmed
        wrong = {key: count for key, count in stated.items() if count not in found}
        if wrong and not (confirmed and (len(wrong) < len(stated) or self._is_extra(pattern))):
            said = " and ".join(f"{key} = {count}" for key, count in stated.items())
            raise BadCheckpoint(
                f"{quoted(pattern)}experts holds {found.pop()} experts, config.json says {said}",
                "correct config.json if the experts were pruned, or find those that are missing",
            )
        return section is not None or confirmed

    def _check_lost(self, routed: Iterable[str], stacks: list[Stack]) -> None:
        """Raise BadCheckpoint if a module has a router like the others, but no experts."""
        known = {module.prefix for stack in stacks for module in stack.modules}
        alike = {(stack.sizes[EXPERT], stack.sizes.get("h")) for stack in stacks}
        for prefix in routed:
            if prefix in known:
                continue
            router = self._router(prefix)
            if router is not None and any(_rows(router, h) == e for e, h in alike):
                raise BadCheckpoint(
                    f"{quoted(prefix)}experts is missing: the router {quoted(router.name)} has "
                    f"{router.shape[0]} rows, and there is no expert",
                    "find the file that holds them",
                )

    def _is_extra(self, pattern: str) -> bool:
        """Return True if a stack is not the first of those that its section describes.

        Such experts belong to a head that predicts further tokens. Their number may differ from
        that of the model's experts.
        """
        stacks = self.family.stacks if self.family else {}
        alike = [other for other, section in stacks.items() if section == stacks.get(pattern)]
        return pattern in alike[1:]

    def _check_router(
        self, stack: Stack, module: Module, stated: Mapping[str, int], next_to: "RoutedModules"
    ) -> bool:
        """Return True if a module has a router with as many rows as the module has experts.

        A router may have more rows if config.json confirms the number of experts: the further rows
        of Inkling are for shared experts. Any other number of rows raises BadCheckpoint.
        """
        router = self._router(module.prefix)
        rows = None if router is None else _rows(router, stack.sizes.get("h"))
        if router is not None and rows is None:
            _check_orientation(module, router, stack, next_to)
        if router is None or rows is None:
            return False
        experts = stack.sizes[EXPERT]
        if rows > experts and experts in stated.values():
            return False
        if rows != experts:
            said = "".join(f", config.json says {key} = {count}" for key, count in stated.items())
            raise BadCheckpoint(
                f"{quoted(module.prefix)}experts holds {experts} experts, and its router "
                f"{quoted(router.name)} has {rows} rows{said}"
            )
        return True

    def _router(self, prefix: str) -> TensorInfo | None:
        """Return the router's weight of a module, or None."""
        found = (self.hub_names.get(prefix + name) for name in router_weights())
        return next((info for info in found if info is not None and len(info.shape) == 2), None)

    def _counts(self, section: str) -> Iterator[tuple[str, int]]:
        """Yield each key of a section of config.json that counts experts, and its value."""
        fields = config_value(self.config, section)
        for key in COUNT_KEYS if isinstance(fields, Mapping) else ():
            count = fields.get(key)
            if type(count) is int:
                yield ".".join(filter(None, (section, key))), count


def _check_orientation(
    module: Module, router: TensorInfo, stack: Stack, next_to: RoutedModules
) -> None:
    """Raise BadCheckpoint if a router takes vectors as long as the outputs of gate and up.

    Only experts that are stored inputs first look like this, unless hidden vectors are
    projected before they get to the experts: the router takes them as they were.
    """
    sizes = stack.sizes
    if "i" not in sizes or sorted(router.shape) != sorted((sizes[EXPERT], sizes["i"])):
        return
    if next_to.has_projection(module.prefix):
        return
    raise BadCheckpoint(
        f"{quoted(module.prefix)}experts has hidden size {sizes.get('h')} by its shapes, and "
        f"the router {quoted(router.name)} is {list(router.shape)}: the experts are transposed",
        "describe their layout with --family FILE, or add --pass-through to leave them",
    )


def _rows(router: TensorInfo, hidden: int | None) -> int | None:
    """Return the rows of a router, one for each expert; None if no dimension is the hidden size.

    Some routers are stored with the hidden size first.
    """
    experts, inputs = router.shape
    if inputs == hidden:
        return experts
    return inputs if experts == hidden else None


def _uneven(stacks: list[Stack]) -> BadCheckpoint:
    """Return the error for layers with different numbers of experts, which nothing confirms."""
    one, other = stacks[:2]
    return BadCheckpoint(
        f"{quoted(other.modules[0].prefix)}experts has {other.sizes[EXPERT]} experts, "
        f"{quoted(one.modules[0].prefix)}experts has {one.sizes[EXPERT]}: the layers of a stack "
        "have to be alike, unless the rows of their routers say otherwise"
    )
