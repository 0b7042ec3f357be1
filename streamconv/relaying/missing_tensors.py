"""Finds the tensors that are missing when a stream has ended."""

from collections.abc import Iterable, Mapping

from streamconv.checkpoint.tensor_names import summarize_names
from streamconv.errors import BadCheckpoint, quoted
from streamconv.relaying.open_module import OpenExperts, OpenGroup
from streamconv.relaying.planner import Planner
from streamconv.relaying.used_names import UsedNames

MAX_LISTED = 64
"""Missing tensors that an error lists by name; more of them are listed by patterns."""


def check_complete(
    experts_by_prefix: Mapping[str, OpenExperts],
    groups: Iterable[OpenGroup],
    arrived: UsedNames,
    planner: Planner,
) -> None:
    """Raise BadCheckpoint if tensors are missing.

    Args:
        experts_by_prefix: The experts of each layer, by the prefix of their module.
        groups: The groups.
        arrived: The names of all tensors that have arrived.
        planner: Tells which tensors experts consist of.
    """
    missing: list[str] = []
    layouts: dict[str, None] = {}
    for prefix, experts in experts_by_prefix.items():
        if experts.module.plan is not None and not experts.module.waiting:
            names: Iterable[str] = experts.module.plan.uses
        else:
            fitting, names = planner.experts.missing(prefix, experts.found)
            layouts.update(dict.fromkeys(fitting))
        missing += (prefix + name for name in names if prefix + name not in arrived)
    for group in groups:
        missing += group.left
    form = planner.names.possible[0]
    if missing:
        names = [form.apply(name) for name in missing]
        listed = ", ".join(map(quoted, names)) if len(names) <= MAX_LISTED else ""
        count = "1 tensor is" if len(names) == 1 else f"{len(names):,} tensors are"
        raise BadCheckpoint(
            f"cannot complete all outputs: {count} missing at the end: "
            f"{listed or summarize_names(names)}",
            f"name the layout of the tensors with `source`: {' or '.join(layouts)}"
            if len(layouts) > 1
            else "",
        )
    waiting = [e.module.prefix for e in experts_by_prefix.values() if e.module.waiting]
    if waiting:
        raise BadCheckpoint(
            f"cannot tell how many experts {quoted(waiting[0])}experts has: neither names and "
            "shapes nor the config say so",
            "give a config that counts the experts",
        )
