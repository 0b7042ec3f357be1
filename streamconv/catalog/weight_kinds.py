"""Kinds of weights: rows of the tables `weights` and `shapes` of `data/layouts.toml`.

A kind is a tensor that an expert can have for each projection: the matrix, a bias, scales. Tensors
of one name can have different shapes, such as a scale for each output or a single scale. Each of
these shapes is a kind of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from streamconv.catalog.templates import EXPERT, Template
from streamconv.errors import UsageError, quoted

MATRICES = ("gate_up", "down")
"""The matrices that every layout describes, with one template each."""

_PART = ".weight"
_INPUTS = {"gate_up": "h", "down": "i"}
"""The axis of a matrix that counts its inputs."""
_PROJECTIONS = "p"


@dataclass(frozen=True, eq=False)
class WeightKind:
    """A kind of weight that an expert can have for each projection: matrix, bias or scales.

    A kind is equal only to itself: a catalog holds each one once.
    """

    suffix: str
    """Suffix of the names of tensors: none, `_bias`, `_scale_inv`."""
    part: str
    """Replacement for `weight` in a name that ends in `.weight`."""
    axes: Mapping[str, Mapping[str, tuple[str, ...]]]
    """Replacements for axes of gate_up and of down; an empty one drops the axis."""
    required: bool = False
    """True if it can be the matrix itself. Every stack needs one such kind."""
    blocks: frozenset[str] = frozenset()
    """Axes that count blocks of the axis that they replace."""
    packed: bool = False
    """True if an element holds several positions of the axis that is replaced."""
    shape: str = ""
    """Name of its shape if tensors of its name can have others, too; empty for the first one."""
    per: Mapping[str, int] = field(default_factory=dict)
    """How many positions one element holds, by the axis that counts elements."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Sizes of the axes whose size is fixed."""
    is_turned: bool = False
    """True if inputs come before outputs in every layout."""
    is_aligned: bool = False
    """True if the shape has to show which part of the matrix each number belongs to."""
    dtypes: frozenset[str] = frozenset()
    """The dtypes that it can have; empty for all."""
    apart: str | None = None
    """Key of the kind that takes its numbers if those who share them are separate tensors."""

    @property
    def key(self) -> str:
        """The text after `gate_up` or `down` in the names of its weights."""
        return f"{self.suffix}-{self.shape}" if self.shape else self.suffix

    def matrix(self, weight: str) -> str:
        """Return the matrix, `gate_up` or `down`, of a weight of this kind."""
        return weight.removesuffix(self.key)

    @property
    def is_shared(self) -> bool:
        """True if projections or experts share its numbers."""
        return any(self.shared_axes(matrix) for matrix in MATRICES)

    def shared_axes(self, matrix: str) -> frozenset[str]:
        """Return the axes (experts, projections) along which one number is shared by all."""
        return frozenset({EXPERT, _PROJECTIONS} & self.axes[matrix].keys())

    def counted(self, matrix: str) -> Mapping[str, str]:
        """Return the replaced axes, by the axes that count blocks or elements of them."""
        return {
            own: axis
            for axis, owns in self.axes[matrix].items()
            for own in owns
            if own in self.blocks or own in self.per
        }

    def template(self, matrix: str, own: Template) -> Template | None:
        """Build the template of this kind from the template of a matrix.

        Args:
            matrix: `gate_up` or `down`.
            own: The template of that matrix.

        Returns:
            The template; None if the layout cannot store the kind.
        """
        axes = self.axes[matrix]
        if not axes.keys().isdisjoint(own.name_axes):
            return None  # the tensors share a number, and none of them can hold it alone
        dims = _turned(own.dims, _INPUTS[matrix]) if self.is_turned else own.dims
        if dims is None or (self.is_aligned and _is_lost(dims, axes)):
            return None
        own_dims: list[tuple[str, ...]] = []
        for dim in dims:
            if axes.keys().isdisjoint(dim):
                own_dims.append(dim)
            elif self.packed:
                if len(dim) > 1 or dim != dims[-1]:
                    return None
                own_dims += [(own,) for own in axes[dim[0]]]
            elif any(own in self.blocks for axis in dim[:-1] for own in axes.get(axis, ())):
                return None
            else:
                own_dims.append(tuple(own for axis in dim for own in axes.get(axis, (axis,))))
        if own.name.endswith(_PART):
            name = f"{own.name.removesuffix(_PART)}.{self.part}"
        else:
            name = own.name + self.suffix
        return Template(name, tuple(dim for dim in own_dims if dim))


def _turned(dims: tuple[tuple[str, ...], ...], inputs: str) -> tuple[tuple[str, ...], ...] | None:
    """Swap outputs and inputs, the last two dimensions; return None if they are not that."""
    if len(dims) < 2 or dims[-1] != (inputs,) or EXPERT in dims[-2]:
        return None
    return (*dims[:-2], dims[-1], dims[-2])


def _is_lost(dims: tuple[tuple[str, ...], ...], axes: Mapping[str, tuple[str, ...]]) -> bool:
    """Return True if the shape would not show which part of the matrix a number belongs to.

    From `(p i)` without i, it is clear: the first number is for the first half of the rows, the
    second for the other half. Nothing in the shape would say that the numbers of `(i p)` are for
    every second row, those of `h (p i)` without h and i for columns, or those of `(e i) h` for the
    rows of a matrix that holds all experts.
    """
    gone = False
    for dim in dims:
        dropped = [axis for axis in dim if axes.get(axis) == ()]
        if EXPERT in dim and any(axis in axes for axis in dim):
            return True
        if dropped and dropped != list(dim[len(dim) - len(dropped) :]):
            return True
        if gone and _PROJECTIONS in dim:
            return True
        gone = gone or len(dropped) == len(dim)
    return False


def read_weight_kinds(
    name: str, row: Mapping[str, Any], shapes: Mapping[str, Mapping[str, Any]]
) -> Iterator[WeightKind]:
    """Read a row of the table `weights`: a kind for each of its shapes.

    Args:
        name: Name of the row, for the error.
        row: The row, which has passed the checks of `row_fields`.
        shapes: The table `shapes`.

    Raises:
        UsageError: It names a shape that is not in the table.
    """
    names = row.get("shapes", ("",))
    for number, shape in enumerate(names):
        if shape and shape not in shapes:
            raise UsageError(
                f"cannot use the weights {name!r}: there is no shape called {quoted(shape)}",
                f"choose from {', '.join(shapes)}",
            )
        fields = shapes[shape] if shape else row
        yield WeightKind(
            suffix=row.get("suffix", ""),
            part=row["part"],
            axes={
                matrix: {axis: tuple(text.split()) for axis, text in fields.get(matrix, {}).items()}
                for matrix in MATRICES
            },
            required=row.get("required", False),
            blocks=frozenset(fields.get("blocks", ())),
            packed=fields.get("packed", False),
            shape=shape if number else "",
            per=fields.get("per", {}),
            sizes=fields.get("sizes", {}),
            is_turned=fields.get("turned", False),
            is_aligned=fields.get("aligned", False),
            dtypes=frozenset(fields.get("dtypes", ())),
            apart=_key(row.get("suffix", ""), fields["apart"], names)
            if "apart" in fields
            else None,
        )


def _key(suffix: str, shape: str, shapes: Sequence[str]) -> str | None:
    """Return the key of the kind that a row has for a shape; None if the row lacks the shape."""
    if shape not in shapes:
        return None
    return suffix if shape == shapes[0] else f"{suffix}-{shape}"


def check_weight_rows(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise UsageError if the weights of two rows could not be distinguished by their names."""
    seen: dict[str, str] = {}
    for name, row in rows.items():
        for text in (f"suffix {row.get('suffix', '')!r}", f"part {row['part']!r}"):
            other = seen.setdefault(text, name)
            if other != name:
                raise UsageError(
                    f"cannot use the weights {name!r}: they have the {text}, as {other!r} has",
                    f"call the row weights.{other} to replace that one, or choose another",
                )
