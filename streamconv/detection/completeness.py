"""Check that the experts of a module are complete, and put their tensors in order."""

import itertools
from collections.abc import Collection, Mapping, Sequence

from streamconv.catalog.layouts import NamedLayout
from streamconv.catalog.name_lookup import NameMatch
from streamconv.catalog.templates import EXPERT
from streamconv.checkpoint.types import TensorInfo
from streamconv.detection.expert_names import NamedTensors
from streamconv.detection.stacks import check_alike
from streamconv.errors import BadCheckpoint, quoted

MAX_RUNS = 4
"""Runs of experts' numbers that an error shows."""

WeightPair = tuple[str, str]
"""A weight of gate_up, and its counterpart of down."""
Position = tuple[int, ...]
"""Positions on the axes in a tensor's name."""


def complete_weights(
    prefix: str,
    found: NamedTensors,
    row: NamedLayout,
    meanings: Mapping[str, NameMatch],
    pairs: Sequence[WeightPair],
) -> dict[str, tuple[TensorInfo, ...]]:
    """Return the tensors of each weight of `row`, in order.

    Args:
        prefix: The module's prefix, for the error.
        found: Its tensors.
        row: The layout.
        meanings: What each name below the prefix means in that layout.
        pairs: Pairs of weights, one of which is required.

    Raises:
        BadCheckpoint: An expected weight, expert or tensor is not among those found, or the
            tensors of a weight are not alike.
    """
    by_weight = _by_position(found, meanings)
    required = required_pair(by_weight, pairs)
    for weight in required:
        if weight not in by_weight:
            raise BadCheckpoint(
                f"{quoted(prefix)}experts has {quoted(', '.join(found.matches))}, "
                f"but no {_any_name(row, weight)}"
            )
    numbers = found.expert_numbers()
    count = 1 + max(numbers, default=-1)
    gap = next((number for number in range(count) if number not in numbers), None)
    if gap is not None:
        axes = row.layout.templates[required[0]].name_axes
        position = tuple(gap if axis == EXPERT else 0 for axis in axes)
        raise _missing(prefix, row, required[0], position, numbers)
    complete = {}
    for weight, infos in by_weight.items():
        expected = _positions(row, weight, count)
        missing = next((position for position in expected if position not in infos), None)
        if missing is not None:
            raise _missing(prefix, row, weight, missing, numbers)
        complete[weight] = tuple(infos[position] for position in expected)
        check_alike(list(complete[weight]))
    return complete


def required_pair(weights: Collection[str], pairs: Sequence[WeightPair]) -> WeightPair:
    """Return the pair of weights that a module which has `weights` needs."""
    return next((pair for pair in pairs if any(w in weights for w in pair)), pairs[0])


def _by_position(
    found: NamedTensors, meanings: Mapping[str, NameMatch]
) -> dict[str, dict[tuple[int | None, ...], TensorInfo]]:
    """Return the tensors by weight, and by position on the axes in their names.

    Raises BadCheckpoint if two of them have the same position.
    """
    by_weight: dict[str, dict[tuple[int | None, ...], TensorInfo]] = {}
    for key, match in meanings.items():
        placed = by_weight.setdefault(match.weight, {})
        at = match.position.index(None) if None in match.position else len(match.position)
        before, after = match.position[:at], match.position[at + 1 :]
        own = {
            match.position if number is None else (*before, number, *after): info
            for number, info in found.tensors[key].items()
        }
        twice = next((position for position in own if position in placed), None)
        if twice is not None:
            raise BadCheckpoint(
                f"tensors {quoted(placed[twice].name)} and {quoted(own[twice].name)} are two names "
                "of one weight"
            )
        placed.update(own)
    return by_weight


def _positions(row: NamedLayout, weight: str, count: int) -> list[Position]:
    """Return all positions on the axes in the name of a weight, for `count` experts."""
    sizes = {**row.sizes(), EXPERT: count}
    axes = row.layout.templates[weight].name_axes
    return list(itertools.product(*(range(sizes[axis]) for axis in axes)))


def _missing(
    prefix: str, row: NamedLayout, weight: str, position: Position, numbers: Collection[int]
) -> BadCheckpoint:
    name = quoted(prefix + row.name(row.layout.templates[weight], position))
    if numbers:
        return BadCheckpoint(f"tensor {name} is missing: there are experts {_runs(numbers)} here")
    return BadCheckpoint(f"tensor {name} is missing: its pair is here")


def _runs(numbers: Collection[int]) -> str:
    """Return numbers as text, such as `0 to 5 and 8 to 9`; of many runs, the first ones."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    shown = [" to ".join(map(str, run)) for run in runs[:MAX_RUNS]]
    rest = len(runs) - len(shown)
    if rest:
        shown.append(f"{rest} more {'run' if rest == 1 else 'runs'}")
    return " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))


def _any_name(row: NamedLayout, weight: str) -> str:
    """Return the name of a weight's first tensor, with * for the expert's number."""
    return next(name for name, _ in row.names(row.layout.templates[weight]))
