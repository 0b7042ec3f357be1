"""That the steps of a conversion lose nothing, and that all of it could come back. Pure."""

from streamconv.checkpoint.types import TensorInfo
from streamconv.detection.detect import Detected
from streamconv.detection.tensor_groups import GroupTensors, groups_of
from streamconv.errors import BadCheckpoint, PlanRefused, quoted
from streamconv.planning.steps import LayerFilter, Step
from streamconv.planning.target import Target


def check_lossless(
    steps: list[Step], source: Detected, target: Target, layers: range | None
) -> None:
    """Hold steps against their source, or against what the wanted layers of it hold.

    Raises PlanRefused where two tensors would get one name, one would not come back, or bytes
    would be lost; BadCheckpoint where the config does not tell enough of a group.
    """
    wanted = LayerFilter(source.stacks, layers)
    _check_names(steps, source, target)
    _check_groups(source, target)
    _check_bytes(steps, [info for name, info in source.hub_names.items() if wanted(name)])


def _check_names(steps: list[Step], source: Detected, target: Target) -> None:
    seen: set[str] = set()
    for step in steps:
        if step.name in seen:
            raise PlanRefused(
                f"two tensors would be called {quoted(step.name)} in the form "
                f"{target.names.name!r}, {quoted(step.inputs[0].name)} is one of them"
            )
        seen.add(step.name)
    for hub_name, info in source.hub_names.items() if target.names.renames else ():
        if not target.names.is_reversible(hub_name):
            raise PlanRefused(
                f"tensor {quoted(info.name)} would not come back from the form "
                f"{target.names.name!r}, which knows it as {quoted(target.names.apply(hub_name))}"
            )


def _check_groups(source: Detected, target: Target) -> None:
    """Refuse a group of which the config does not tell enough, or something is quantized, and
    names that only what it becomes may have."""
    relaid = [stack for stack in source.groups if target.layout_for(stack) != stack.row]
    moved = (infos for s in relaid for m in s.modules for infos in m.tensors.values())
    members = {info.name for infos in moved for info in infos}
    made = GroupTensors(
        {g: g.form_layout for g in target.names.groups if target.names != source.names}
    )
    forms = source.family.forms if source.family else {}
    stored = {group: source.names.layout_for(group) for group in groups_of(forms)}
    moving = {group: row for group, row in stored.items() if target.groups[row] != row}
    undescribed = GroupTensors(moving)
    suffixes = [kind.suffix for kind in source.catalog.weight_kinds.values() if kind.suffix]
    for name, info in source.hub_names.items() if moving else ():
        member = None if info.name in members else undescribed.find(name)
        if member is not None:
            raise BadCheckpoint(
                f"tensor {quoted(info.name)}: config.json has to say {member.group.asks}, which "
                "tells how it is divided",
                "a layout instead of a form leaves it as it is",
            )
        if any(name.endswith(end) and undescribed.find(name.removesuffix(end)) for end in suffixes):
            raise PlanRefused(
                f"tensor {quoted(info.name)} belongs to one that the form {target.names.name!r} "
                "joins, splits or turns, which nothing quantized can be: a cut or a turn could "
                "fall inside a block",
                "a layout instead of a form leaves both as they are; scales of FP8 blocks are used "
                "up by --dequantize bf16",
            )
        if info.name not in members and made.find(name):
            raise PlanRefused(
                f"tensor {quoted(info.name)} has a name that the form {target.names.name!r} gives "
                "to what it makes of other tensors"
            )


def _check_bytes(steps: list[Step], wanted: list[TensorInfo]) -> None:
    """Hold what the steps consume and make against what there is: nothing lost, nothing twice."""
    used = {info.name for step in steps for info in step.inputs}
    unused = next((info for info in wanted if info.name not in used), None)
    made, there = sum(step.nbytes for step in steps), sum(info.nbytes for info in wanted)
    if unused is not None or made != there:
        lost = f"tensor {quoted(unused.name)} would be lost; " if unused else ""
        raise PlanRefused(
            f"{lost}{there} bytes of tensors would become {made}: a layout or family is described "
            "wrongly"
        )
