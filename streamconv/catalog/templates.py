"""Where the axes of an expert weight live: templates, and the sizes under which they hold. Pure.

An expert weight has the axes `e` expert, `p` gate/up, `d` down, `i` intermediate, `h` hidden.
A template says where each of them lives, in the tensor's name or in its shape, in the notation
that einops made familiar:

    experts.{e}.{p}.weight : i h          one tensor an expert and projection, [I, H]
    experts.gate_up_proj : e (p i) h      one tensor, [E, 2I, H], gate rows above up rows

Two templates of one weight determine how its bytes move (`moves`); there is no table of pairs, and
no direction that has to be written twice.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from streamconv.errors import UsageError

EXPERT = "e"
"""The axis that conversions are streamed along; what stands for it in a name is a number."""

_DIM = re.compile(r"\(\s*(\w+(?:\s+\w+)*)\s*\)|(\w++)")
_DIMS = re.compile(rf"(?:\s*(?:{_DIM.pattern}))+")
_NAME = re.compile(r"(?:[^\s:{}]|\{\w+\})+")
_NAME_AXIS = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Template:
    """One kind of tensor: its name below the module's prefix, and the axes of each dimension."""

    name: str
    dims: tuple[tuple[str, ...], ...]

    @classmethod
    def parse(cls, text: str) -> "Template":
        """The template written as `name : dimension ...`; raises UsageError where it is none."""
        name, _, dims = (part.strip() for part in text.partition(":"))
        parsed = tuple(tuple((m[1] or m[2]).split()) for m in _DIM.finditer(dims))
        template = cls(name, parsed)
        axes = template.name_axes + template.axes
        well_formed = _NAME.fullmatch(name) and _DIMS.fullmatch(dims)
        if not well_formed or len(set(axes)) != len(axes):
            raise UsageError(
                f"{text!r} is not a tensor template",
                "write a name, a colon and the axes: 'experts.gate_up_proj : e (p i) h'",
            )
        return template

    def __str__(self) -> str:
        """The template as `parse` reads it."""
        dims = (dim[0] if len(dim) == 1 else f"({' '.join(dim)})" for dim in self.dims)
        return f"{self.name} : {' '.join(dims)}"

    @cached_property
    def name_axes(self) -> tuple[str, ...]:
        """The axes that stand in the name, in their order there."""
        return tuple(_NAME_AXIS.findall(self.name))

    @cached_property
    def axes(self) -> tuple[str, ...]:
        """The axes that stand in the shape, outermost first."""
        return tuple(axis for dim in self.dims for axis in dim)

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The tensor's shape in elements when the axes have these sizes."""
        return tuple(math.prod(sizes[axis] for axis in dim) for dim in self.dims)

    def tensor_name(self, tokens: Mapping[str, str]) -> str:
        """The tensor's name below the prefix, each axis in it replaced by its token."""
        return _NAME_AXIS.sub(lambda match: tokens[match[1]], self.name)


def solve_sizes(
    tensors: Iterable[tuple[tuple[Template, ...], tuple[int, ...]]], known: Mapping[str, int]
) -> dict[str, int] | None:
    """The axis sizes under which every tensor has its shape, or None if there are none.

    A tensor is what one template says, or several, one behind the other on the first dimension.
    One may leave an axis open that another one settles: a flat `(e h) (p i)` needs the down
    projection's `(e i) h` for its E. None also where an axis stays open.
    """
    sizes = dict(known)
    sums: list[tuple[_Sum, int]] = []
    for templates, shape in tensors:
        if any(len(shape) != len(template.dims) for template in templates):
            return None
        sums += ((tuple(template.dims[0] for template in templates), n) for n in shape[:1])
        for template in templates:
            sums += (((dim,), n) for dim, n in zip(template.dims[1:], shape[1:], strict=True))
    while sums:
        unsettled = []
        for products, extent in sums:
            unknown = {axis for product in products for axis in product if axis not in sizes}
            if len(unknown) > 1:
                unsettled.append((products, extent))
            elif not _settles(products, extent, next(iter(unknown), ""), sizes):
                return None
        if len(unsettled) == len(sums):
            return None
        sums = unsettled
    return sizes


_Sum = tuple[tuple[str, ...], ...]
"""Products of axes that add up to the extent of a dimension."""


def _settles(products: _Sum, extent: int, unknown: str, sizes: dict[str, int]) -> bool:
    """Whether the sum can be `extent`; what the one unknown axis is then goes to `sizes`."""
    rest, factor = extent, 0
    for product in products:
        value = math.prod(sizes[axis] for axis in product if axis != unknown)
        if unknown in product:
            factor += value
        else:
            rest -= value
    if not unknown:
        return rest == 0
    if factor == 0 or rest <= 0 or rest % factor:
        return False
    sizes[unknown] = rest // factor
    return True
