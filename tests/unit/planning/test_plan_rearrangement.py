"""Rearrangements, compared with formulas in numpy.

What is expected never comes from a template: `stored` says by hand how each layout stores a
weight, and `addresses` reads a rearrangement the naive way, byte by byte.
"""

import itertools
import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from stored import AXIS_SIZES, LAYOUTS, WEIGHTS, Array, Stored, all_sizes, canonical, stored

from streamconv.catalog.catalog import default_catalog
from streamconv.catalog.templates import Template
from streamconv.errors import UsageError
from streamconv.planning.plan_rearrangement import plan_rearrangement
from streamconv.planning.rearrangement import Rearrangement, copy_of

CATALOG = default_catalog()


def inputs_of(source: Stored, fixed: dict[str, int]) -> list[Array]:
    """The source's tensors at the fixed positions, in the order in which it stores them."""
    return [
        values
        for _, position, values in source
        if all(fixed.get(axis, at) == at for axis, at in position.items())
    ]


def addresses(how: Rearrangement, inputs: Iterable[tuple[int, int]]) -> npt.NDArray[np.int64]:
    """Where each byte of the output comes from; inputs are given as begin and size in bytes."""
    places = list(inputs)
    units = []
    for unit in range(how.units):
        reads = how.reads(unit)
        assert len(reads) == how.inputs
        assert all(at >= 0 and at + how.input_bytes <= places[which][1] for which, at in reads)
        memory = np.concatenate(
            [
                np.arange(how.input_bytes, dtype=np.int64) + places[which][0] + at
                for which, at in reads
            ]
        )
        address = memory.itemsize * how.itemsize
        strides = (*(stride * address for stride in how.strides), memory.itemsize)
        # numpy refuses a view that reaches beyond the memory.
        view: Array = np.ndarray(
            (*how.shape, how.itemsize), np.int64, memory, how.start * address, strides
        )
        units.append(view.reshape(-1))
        assert view.size == how.unit_bytes
    return np.concatenate(units)


def moved(how: Rearrangement, inputs: list[Array]) -> bytes:
    """What a rearrangement makes of its inputs."""
    sizes = [values.nbytes for values in inputs]
    begins = [sum(sizes[:k]) for k in range(len(sizes))]
    everything = np.frombuffer(b"".join(v.tobytes() for v in inputs), np.uint8)
    return everything[addresses(how, zip(begins, sizes, strict=True))].tobytes()


@settings(deadline=None, max_examples=25)
@given(sizes=AXIS_SIZES, dtype=st.sampled_from(["u1", "u2", "u4", "u8"]))
def test_every_layout_to_every_layout(sizes: dict[str, int], dtype: str) -> None:
    """All weights of all pairs: the formulas' bytes, each source byte used exactly once."""
    for weight in WEIGHTS:
        values = canonical(weight, sizes, dtype)
        for source, target in itertools.product(LAYOUTS, LAYOUTS):
            _check_pair(source, target, weight, values, all_sizes(sizes))


def _check_pair(
    source: str, target: str, weight: str, values: Array, sizes: dict[str, int]
) -> None:
    have = stored(source, weight, values)
    begin_of = {}
    end = 0
    for _, _, tensor in have:
        begin_of[id(tensor)] = end
        end += tensor.nbytes
    uses = np.zeros(end, np.int64)
    for _, fixed, expected in stored(target, weight, values):
        how = plan_rearrangement(
            CATALOG.layouts[source].templates[weight],
            CATALOG.layouts[target].templates[weight],
            sizes,
            fixed,
            8 * values.itemsize,
        )
        inputs = inputs_of(have, fixed)
        assert moved(how, inputs) == expected.tobytes(), (source, target, weight, how)
        assert how.units * how.unit_bytes == expected.nbytes
        uses += np.bincount(
            addresses(how, [(begin_of[id(tensor)], tensor.nbytes) for tensor in inputs]),
            minlength=end,
        )
    assert (uses == 1).all(), (source, target, weight)


@settings(deadline=None, max_examples=25)
@given(sizes=AXIS_SIZES)
def test_experts_are_streamed(sizes: dict[str, int]) -> None:
    """A unit is an expert; what is in memory at once is never more than one expert's."""
    for weight, source, target in itertools.product(WEIGHTS, LAYOUTS, LAYOUTS):
        values = canonical(weight, sizes, "u2")
        for _, fixed, expected in stored(target, weight, values):
            have, want = (CATALOG.layouts[name].templates[weight] for name in (source, target))
            how = plan_rearrangement(have, want, all_sizes(sizes), fixed, 16)
            holds_all = "e" not in fixed
            assert how.units == (sizes["e"] if holds_all else 1)
            assert how.unit_bytes * how.units == expected.nbytes
            assert how.buffer_bytes <= values[0].nbytes
            if how.is_copy:
                assert how.inputs * how.input_bytes == how.unit_bytes
                assert how.buffer_bytes == 0


@st.composite
def placed(draw: st.DrawFn) -> tuple[list[str], list[str]]:
    """Axes of a name and axes of a shape, each of e, p, i and h in one of them."""
    order = draw(st.permutations("epih"))
    cut = draw(st.integers(0, 3))
    return list(order[:cut]), list(order[cut:])


def template_of(names: list[str], axes: list[str]) -> Template:
    return Template.parse(".".join(["x", *(f"{{{a}}}" for a in names)]) + " : " + " ".join(axes))


def stored_anyhow(names: list[str], axes: list[str], values: Array) -> Stored:
    """Tensors of e p i h with these axes in the name and those in the shape."""
    turned = values.transpose(["epih".index(axis) for axis in (*names, *axes)])
    positions = itertools.product(*(range(turned.shape[k]) for k in range(len(names))))
    return [
        (str(at), dict(zip(names, at, strict=True)), np.ascontiguousarray(turned[at]))
        for at in positions
    ]


@settings(deadline=None, max_examples=300)
@given(
    source=placed(),
    target=placed(),
    sizes=st.fixed_dictionaries(dict.fromkeys("epih", st.integers(1, 4))),
)
def test_axes_anywhere(
    source: tuple[list[str], list[str]],
    target: tuple[list[str], list[str]],
    sizes: dict[str, int],
) -> None:
    """Any axis may stand in a name and at any place of a shape, in any order, on either side."""
    shape = tuple(sizes[axis] for axis in "epih")
    values = np.arange(math.prod(shape), dtype=np.uint16).reshape(shape)
    have = stored_anyhow(*source, values)
    used = []
    for _, fixed, expected in stored_anyhow(*target, values):
        how = plan_rearrangement(template_of(*source), template_of(*target), sizes, fixed, 16)
        result = moved(how, inputs_of(have, fixed))
        assert result == expected.tobytes(), how
        used.append(np.frombuffer(result, np.uint16))
    assert sorted(np.concatenate(used)) == list(range(values.size))


def test_experts_that_are_not_outermost_are_one_unit() -> None:
    """Where one side has another axis outside of the experts, the tensor is made in one go."""
    values = np.arange(2 * 3 * 4 * 5, dtype=np.uint16).reshape(2, 3, 4, 5)
    source, target = Template.parse("x : p e i h"), Template.parse("y : e (p i) h")
    for have, want in ((source, target), (target, source)):
        how = plan_rearrangement(have, want, {"p": 2, "e": 3, "i": 4, "h": 5}, {}, 16)
        assert (how.units, how.inputs, how.buffer_bytes) == (1, 1, values.nbytes)
    how = plan_rearrangement(source, target, {"p": 2, "e": 3, "i": 4, "h": 5}, {}, 16)
    assert moved(how, [values]) == np.concatenate([values[0], values[1]], axis=1).tobytes()


def test_axes_of_one_side_alone() -> None:
    """An axis may be missing on one side where its size is one, and nowhere else."""
    source, target = Template.parse("x : e h i"), Template.parse("x.{d} : e i h")
    values = np.arange(2 * 3 * 4, dtype=np.uint16).reshape(2, 3, 4)
    how = plan_rearrangement(source, target, {"e": 2, "h": 3, "i": 4, "d": 1}, {"d": 0}, 16)
    assert moved(how, [values]) == values.swapaxes(1, 2).tobytes()
    with pytest.raises(UsageError, match="only one of them has d"):
        plan_rearrangement(source, target, {"e": 2, "h": 3, "i": 4, "d": 2}, {"d": 0}, 16)


@settings(deadline=None, max_examples=25)
@given(sizes=AXIS_SIZES, bits=st.sampled_from([4, 6]))
def test_elements_that_are_no_whole_bytes(sizes: dict[str, int], bits: int) -> None:
    """They move as copies of whole bytes, in their order, or not at all."""
    assume(sizes["i"] * sizes["h"] * bits % 8 == 0)
    for weight, source, target in itertools.product(("gate_up", "down"), LAYOUTS, LAYOUTS):
        # Codes of elements; 8 // bits of them, or parts of them, would share a byte.
        values = canonical(weight, sizes, "u2")
        have = stored(source, weight, values)
        templates = (CATALOG.layouts[name].templates[weight] for name in (source, target))
        for_all = list(templates)
        for _, fixed, expected in stored(target, weight, values):
            inputs = inputs_of(have, fixed)
            try:
                how = plan_rearrangement(for_all[0], for_all[1], all_sizes(sizes), fixed, bits)
            except UsageError:
                assert source != target
                assert _keeps_no_order(inputs, expected)
                continue
            assert how.is_copy
            packed = moved(how, [_packed(tensor, bits) for tensor in inputs])
            assert packed == _packed(expected, bits).tobytes()


def _keeps_no_order(inputs: list[Array], expected: Array) -> bool:
    """Whether the elements do not come from one input, or from all of them, in their order."""
    return expected.tobytes() not in b"".join(tensor.tobytes() for tensor in inputs)


def _packed(values: Array, bits: int) -> Array:
    """The low bits of each element, one after the other, from the lowest bit of a byte up."""
    little = values.astype("<u2").reshape(-1, 1).view(np.uint8)
    spread = np.unpackbits(little, axis=1, bitorder="little")[:, :bits]
    return np.packbits(spread.reshape(-1), bitorder="little")


def test_a_copy_is_one_run() -> None:
    """A tensor that stays as it is: all of its bytes, never touched, nothing kept in memory."""
    how = copy_of(7)
    assert how.is_copy
    assert (how.units, how.unit_bytes, how.buffer_bytes, how.reads(0)) == (1, 7, 0, [(0, 0)])
    values = np.arange(7, dtype=np.uint8)
    assert moved(how, [values]) == values.tobytes()


def test_a_part_behind_another() -> None:
    """Turned or taken as it is: only its own elements, of the tensor that holds both."""
    whole = np.arange(40, dtype=np.uint16)
    part = whole[16:].reshape(2, 3, 2, 2)
    sizes = {"n": 2, "x": 3, "r": 2, "h": 2}
    source = Template.parse("qkv : (n x r) h")
    for text, expected in (
        ("k : (n r x) h", part.transpose(0, 2, 1, 3)),
        ("k : (n x r) h", part),
    ):
        how = plan_rearrangement(source, Template.parse(text), sizes, {}, 16, before=16)
        assert moved(how, [whole]) == expected.tobytes()
        assert how.total_inputs == 1
        assert how.is_copy == (expected is part)


def test_the_example_at_the_top_of_the_module() -> None:
    """Eight experts from `e h (p i)` to `e (p i) h`, and one of their up projections alone."""
    sizes = {"e": 8, "p": 2, "i": 3, "h": 4}
    source = Template.parse("experts.gate_up_proj : e h (p i)")
    target = Template.parse("experts.gate_up_proj : e (p i) h")
    assert plan_rearrangement(source, target, sizes, {}, 16) == Rearrangement(
        units=8,
        inputs=1,
        advance=False,
        base=0,
        stride=48,
        input_bytes=48,
        start=0,
        shape=(6, 4),
        strides=(1, 6),
        itemsize=2,
    )
    one = Template.parse("experts.{e}.{p}.weight : i h")
    assert plan_rearrangement(source, one, sizes, {"e": 5, "p": 1}, 16) == Rearrangement(
        units=1,
        inputs=1,
        advance=False,
        base=2 * 120,
        stride=0,
        input_bytes=48,
        start=3,
        shape=(3, 4),
        strides=(1, 6),
        itemsize=2,
    )
