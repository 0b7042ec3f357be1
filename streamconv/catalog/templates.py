"""Templates: the places of the axes of an expert weight, in a tensor's name and in its shape.

An expert weight has the axes `e` expert, `p` gate/up, `d` down, `i` intermediate, `h` hidden.
A template puts each of them into the tensor's name or into its shape, in the notation of einops:

    experts.{e}.{p}.weight : i h          one tensor per expert and projection, [I, H]
    experts.gate_up_proj : e (p i) h      one tensor, [E, 2I, H], gate rows above up rows

Two templates of one weight determine how its bytes move (`planning/plan_rearrangement`). There is
no table of pairs of layouts, and no direction has code of its own.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property

from streamconv.errors import UsageError

EXPERTS = ".experts."
"""The text between the name of a layer's module and the rest of an expert tensor's name."""
EXPERT = "e"
"""The axis along which conversions stream. In a name, its positions are numbers."""

_DIM = re.compile(r"\(\s*(\w+(?:\s+\w+)*)\s*\)|(\w++)")
_DIMS = re.compile(rf"(?:\s*(?:{_DIM.pattern}))+")
_NAME = re.compile(r"(?:[^\s:{}]|\{\w+\})+")
_NAME_AXIS = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Template:
    """The name of a tensor below its module's prefix, and the axes of each dimension."""

    name: str
    dims: tuple[tuple[str, ...], ...]

    @classmethod
    def parse(cls, text: str) -> "Template":
        """Read a template from `name : dimension ...`. A template without dimensions is a scalar.

        Raises UsageError if it is not a template.
        """
        name, colon, dims = (part.strip() for part in text.partition(":"))
        parsed = tuple(tuple((m[1] or m[2]).split()) for m in _DIM.finditer(dims))
        template = cls(name, parsed)
        axes = template.name_axes + template.axes
        well_formed = _NAME.fullmatch(name) and (_DIMS.fullmatch(dims) or (colon and not dims))
        if not well_formed or len(set(axes)) != len(axes):
            raise UsageError(
                f"cannot use {text!r}: it is not a tensor template",
                "write a name, a colon and the axes: 'experts.gate_up_proj : e (p i) h'",
            )
        return template

    def __str__(self) -> str:
        """Return the template as `parse` reads it."""
        dims = (dim[0] if len(dim) == 1 else f"({' '.join(dim)})" for dim in self.dims)
        return f"{self.name} : {' '.join(dims)}".rstrip()

    @property
    def name_axes(self) -> tuple[str, ...]:
        """The axes in the name, in order."""
        return _axes_in(self.name)

    @cached_property
    def axes(self) -> tuple[str, ...]:
        """The axes in the shape, outermost first."""
        return tuple(axis for dim in self.dims for axis in dim)

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Return the tensor's shape, in elements, for the sizes of the axes."""
        return tuple(math.prod(sizes[axis] for axis in dim) for dim in self.dims)

    def tensor_name(self, tokens: Mapping[str, str]) -> str:
        """Return the tensor's name below the prefix, with the text of `tokens` for each axis."""
        return _NAME_AXIS.sub(lambda match: tokens[match[1]], self.name)


@cache
def _axes_in(name: str) -> tuple[str, ...]:
    """Return the axes in a name, in order. A dozen templates share a name, and many ask for it."""
    return tuple(_NAME_AXIS.findall(name))


def solve_sizes(
    tensors: Iterable[tuple[tuple[Template, ...], tuple[int, ...]]], known: Mapping[str, int]
) -> dict[str, int] | None:
    """Solve for the axis sizes with which every tensor has its shape.

    One tensor may settle an axis of another. For example, if p = 2, `(e h) (p i)` of shape [32, 12]
    gives i = 6. Then `(e i) h` of shape [24, 8] gives h = 8 and e = 4, and e * h is the 32 of the
    first shape. With [12, 8] there would be no solution.

    Args:
        tensors: The templates and the shape of each tensor. Several templates are concatenated on
            the first dimension.
        known: Sizes that are settled already.

    Returns:
        The sizes of all axes, or None if there is no solution, or more than one.
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
"""Products of axes whose sum is the extent of a dimension."""


def _settles(products: _Sum, extent: int, unknown: str, sizes: dict[str, int]) -> bool:
    """Solve a sum for its unknown axis, and add that to `sizes`; return False if impossible."""
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
