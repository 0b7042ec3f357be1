"""Why experts of a checkpoint cannot be converted: raised at once, or collected by module.

A plain conversion needs the first reason as an error. An inspection, a verification, and a
conversion with `--pass-through` need the reasons for all modules, and use the other modules.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from streamconv.checkpoint.casting import Casting
from streamconv.errors import BadCheckpoint, PlanRefused, StreamconvError, quoted

DEFAULT_HINT = "add --pass-through to copy such experts as they are"
"""The hint for a refusal that has no other."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the experts of some modules cannot be converted."""

    message: str
    hint: str
    is_defect: bool
    """True if the experts are incomplete or contradict something; False if no layout is known."""

    @classmethod
    def of(cls, error: StreamconvError) -> "Refusal":
        """Return the refusal that an error means."""
        return cls(error.message, error.hint, isinstance(error, BadCheckpoint))


def divided_experts(location: str, casting: Casting) -> PlanRefused:
    """Return the refusal of casts that change some of the weights of a layer's experts only.

    Args:
        location: Location of the checkpoint.
        casting: The casts that were asked for, with a choice of weights.
    """
    choices = [f"--only {quoted(pattern)}" for pattern in casting.only]
    choices += [f"--except {quoted(pattern)}" for pattern in casting.skip]
    verb = "quantize" if casting.quantize is not None else "dequantize"
    return PlanRefused(
        f"cannot {verb} {location} and convert its experts: {' and '.join(choices)} would "
        f"{verb} some weights of a layer's experts and not others, and a layout needs all of them "
        "to be alike",
        "choose all experts of a layer or none, or add --pass-through to leave their layout",
    )


class Refusals:
    """The refusals found so far, by the pattern of the modules."""

    def __init__(self, *, collects: bool) -> None:
        self._collects = collects
        self._found: dict[str, Refusal] = {}

    def add(self, pattern: str, error: StreamconvError) -> None:
        """Keep the first refusal of a pattern. Raises the error unless refusals are collected.

        An error without a hint gets one: such experts can be copied as they are.
        """
        error.hint = error.hint or DEFAULT_HINT
        if not self._collects:
            raise error
        self._found.setdefault(pattern, Refusal.of(error))

    def __contains__(self, pattern: object) -> bool:
        """Return True if modules of this pattern cannot be converted."""
        return pattern in self._found

    def by_pattern(self) -> Mapping[str, Refusal]:
        """Return all refusals."""
        return dict(self._found)
