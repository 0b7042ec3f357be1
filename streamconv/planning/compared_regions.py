"""Find the regions that a verification compares: one weight of one expert, or a whole tensor."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice, repeat

from streamconv.catalog.templates import EXPERT
from streamconv.detection.detect import Detected
from streamconv.detection.stacks import Stack
from streamconv.planning.steps import Steps
from streamconv.planning.target import Target

MOST_REGIONS = 32
"""The largest regions that are listed: as many as there may be threads, mostly."""


@dataclass(frozen=True, slots=True)
class Regions:
    """The number of regions, and the bytes of the largest ones, in falling order."""

    count: int = 0
    converted: tuple[int, ...] = ()
    """Of those that get another layout, at most MOST_REGIONS."""
    others: tuple[int, ...] = ()
    """Of all others, as many."""


def compared_regions(source: Detected, target: Target, steps: Steps) -> Regions:
    """Return the regions that a verification compares, or more than them if layers are left out.

    Args:
        source: What was detected in the source, with casts applied.
        target: The layouts that it gets.
        steps: The steps of the conversion.
    """
    converted: Counter[int] = Counter()
    others: Counter[int] = Counter()
    in_stacks: set[str] = set()
    for stack in (*source.stacks, *source.groups):
        stays = target.layout_for(stack) == stack.row
        for experts, nbytes, names in _weights(stack):
            if stays:
                in_stacks.update(names)
                others[nbytes] += experts
            else:
                converted[nbytes] += experts
    for hub_name in steps.copied:
        info = source.hub_names[hub_name]
        if info.name not in in_stacks:
            others[info.nbytes] += 1
    return Regions(converted.total() + others.total(), _largest(converted), _largest(others))


def _weights(stack: Stack) -> Iterator[tuple[int, int, list[str]]]:
    """Yield the regions of each weight of each module: their number, the bytes of one, its tensors.

    The tensors of a weight are alike.
    """
    for module in stack.modules:
        for weight, infos in module.tensors.items():
            template = stack.row.layout.templates[weight]
            has_experts = EXPERT in template.name_axes + template.axes
            experts = stack.sizes.get(EXPERT, 1) if has_experts else 1
            nbytes = infos[0].nbytes * len(infos) // experts
            yield stack.sizes.get(EXPERT, 1), nbytes, [info.name for info in infos]


def _largest(sizes: Counter[int]) -> tuple[int, ...]:
    """Return the largest sizes, each as often as it is there."""
    ordered = chain.from_iterable(repeat(size, sizes[size]) for size in sorted(sizes, reverse=True))
    return tuple(islice(ordered, MOST_REGIONS))
