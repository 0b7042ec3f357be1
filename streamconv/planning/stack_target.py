"""Check that a stack can have the layout of a target, and could be converted back from it."""

import math

from streamconv.catalog.families import Form
from streamconv.catalog.layouts import NamedLayout
from streamconv.catalog.templates import EXPERT, solve_sizes
from streamconv.detection.detect import Detected
from streamconv.detection.stacks import Stack, same_tensors
from streamconv.errors import PlanRefused, UsageError, quoted
from streamconv.formats.safetensors import DTYPE_BITS
from streamconv.planning.plan_rearrangement import plan_rearrangement

_AXES = {"i": "the intermediate size", "h": "the hidden size"}


def check_row(source: Detected, stack: Stack, row: NamedLayout, names: Form | None) -> None:
    """Raise PlanRefused if a stack cannot have a layout.

    Args:
        source: The checkpoint to convert.
        stack: The stack.
        row: The layout and naming that it would get.
        names: The form whose names it would get; None if the user asked for a form, not a layout.
    """
    if row == stack.row:
        return
    _check_naming(stack, row)
    _check_weights(source, stack, row)
    _check_count_recoverable(source, stack, row)
    if names is not None:
        _check_unambiguous(stack, row, names)


def _check_naming(stack: Stack, row: NamedLayout) -> None:
    """Check that the naming of the layout has as many projections as the stack."""
    for axis, count in row.sizes().items():
        if stack.sizes[axis] != count:
            raise PlanRefused(
                f"{quoted(stack.pattern)}experts has {stack.sizes[axis]} projections on the axis "
                f"{axis}, and the naming {row.naming.name!r} has {count}",
                "give the family the naming that its tensors have",
            )


def _check_weights(source: Detected, stack: Stack, row: NamedLayout) -> None:
    """Check that each weight has a place in the layout, and moves in whole blocks and bytes."""
    subject = f"{quoted(stack.pattern)}experts"
    places = row.layout.places(stack.first, stack.row.layout)
    for weight, infos in stack.first.items():
        old = stack.row.layout.templates[weight]
        place = places.get(weight)
        if place is None:
            shown = f"{quoted(infos[0].name)} {infos[0].dtype} {list(infos[0].shape)}"
            reason = _why_no_place(stack.row.layout.kinds[weight].is_shared, infos[0].shape)
            raise PlanRefused(
                f"{subject} cannot become {row.layout.name}: it has no place for {shown}, {reason}",
                "add --dequantize bf16 to convert their values, or --pass-through to leave such "
                "experts as they are",
            )
        new = row.layout.templates[place]
        for layout, of in ((stack.row.layout, weight), (row.layout, place)):
            for axis, count in layout.whole_blocks[of].items():
                per = layout.kinds[of].per.get(count, 0)
                _check_blocks(source, stack, infos[0].name, axis, count, per)
        fixed = dict.fromkeys(new.name_axes, 0)
        try:
            bits, shared = DTYPE_BITS[infos[0].dtype], stack.row.layout.shared_axes(weight)
            plan_rearrangement(old, new, stack.sizes, fixed, bits, shared=shared)
        except UsageError as error:
            raise PlanRefused(f"{quoted(infos[0].name)}: {error.message}") from None


def _why_no_place(is_shared: bool, shape: tuple[int, ...]) -> str:
    """Return why a layout has no place for a companion of this shape."""
    if is_shared:
        return "which experts or projections share that would be apart"
    if math.prod(shape) == 1:
        return "a number for one projection of one expert, which would not show there"
    return "whose elements belong together along the axis that they are packed or scaled along"


def _check_count_recoverable(source: Detected, stack: Stack, row: NamedLayout) -> None:
    """Check that the number of experts could be found again: by names, shapes or config.json."""
    if stack.pattern not in source.counted and not _settles_sizes(stack, row):
        raise PlanRefused(
            f"{quoted(stack.pattern)}experts as {row.layout.name} would not show how many experts "
            f"there are: its shapes would have {stack.sizes[EXPERT]} times {stack.sizes['i']} as "
            "one number, and config.json does not count them",
            "choose another layout",
        )


def _check_unambiguous(stack: Stack, row: NamedLayout, names: Form) -> None:
    """Check that the stack would not be mistaken for the layout that the form has for it."""
    expected = names.layout_of(stack.pattern)
    if expected in (None, row.layout):
        return
    if same_tensors(NamedLayout(expected, row.naming), row, stack):
        raise PlanRefused(
            f"{quoted(stack.pattern)}experts as {row.layout.name} has the names and shapes that "
            f"are {expected.name} in the form {names.name!r}: the two could not be distinguished",
            "convert to `hub` first, and from there, or to another layout",
        )


def _settles_sizes(stack: Stack, row: NamedLayout) -> bool:
    """Return True if names and shapes in a layout settle the size of every axis."""
    places = row.layout.places(stack.first, stack.row.layout)
    templates = [row.layout.templates[place] for place in places.values()]
    shapes = [((template,), template.shape(stack.sizes)) for template in templates]
    named = any(EXPERT in template.name_axes for template in templates)
    known = {EXPERT: stack.sizes[EXPERT]} if named else {}
    return solve_sizes(shapes, {**row.sizes(), **known}) is not None


def _check_blocks(
    source: Detected, stack: Stack, name: str, axis: str, count: str, per: int
) -> None:
    """Check that experts or projections next to each other end where a block or element ends.

    Args:
        source: The checkpoint, with the size of a block if config.json gives it.
        stack: The stack with the scales.
        name: Name of a weight, for the error.
        axis: The axis along which blocks have to be whole.
        count: The axis that counts these blocks.
        per: Positions in a block; 0 if they follow from config.json or from the sizes.
    """
    sizes = stack.sizes
    if per:
        if sizes[count] * per != sizes[axis]:
            raise PlanRefused(
                f"{quoted(stack.pattern)}experts: {quoted(name)} holds {per} numbers in an "
                f"element, and {_AXES[axis]} is {sizes[axis]}: a cut between projections or "
                "experts would fall inside an element"
            )
        return
    if sizes[count] == 1 and not source.block:
        return
    lengths = {sizes[of] / sizes[by] for of, by in (("i", "j"), ("h", "k"))}
    length = source.block[0] if source.block else min(lengths)
    square = len(set(source.block or lengths)) == 1
    if not square or sizes[count] * length != sizes[axis]:
        blocks = f"blocks of {list(source.block)}" if source.block else f"{sizes[count]} blocks"
        raise PlanRefused(
            f"{quoted(stack.pattern)}experts: {quoted(name)} has scales for {blocks}, and "
            f"{_AXES[axis]} is {sizes[axis]}: a cut between projections or experts would fall "
            "inside a block"
        )
