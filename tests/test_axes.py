"""Templates, solved sizes and rearrangements, held against formulas written out with numpy.

What is expected never comes from a template: `stored` says by hand how each layout stores a
weight, and `addresses` reads a rearrangement the naive way, byte by byte.
"""

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from streamconv.axes import Template, solve_sizes
from streamconv.errors import UsageError
from streamconv.layouts import layouts
from streamconv.moves import Rearrangement, copy_of, rearrange

Array = npt.NDArray[Any]
Stored = list[tuple[str, dict[str, int], Array]]
"""The tensors of one weight: name below the prefix, position on the axes in it, content."""

LAYOUTS = (
    "per-expert",
    "fused",
    "fused-transposed",
    "fused-flat",
    "stacked",
    "fused-interleaved",
)
WEIGHTS = ("gate_up", "down", "gate_up_bias", "down_bias")
TOKENS = {"p": ("gate_proj", "up_proj"), "d": ("down_proj",)}
SIZE = st.integers(1, 13)
AXIS_SIZES = st.fixed_dictionaries({"e": SIZE, "i": SIZE, "h": SIZE})


def canonical(weight: str, sizes: dict[str, int], dtype: str) -> Array:
    """A weight whose values tell their coordinates, as far as the dtype can."""
    e, i, h = sizes["e"], sizes["i"], sizes["h"]
    shape = {
        "gate_up": (e, 2, i, h),
        "down": (e, h, i),
        "gate_up_bias": (e, 2, i),
        "down_bias": (e, h),
    }[weight]
    code = np.arange(math.prod(shape), dtype=np.uint64).reshape(shape)
    return (code % 251 if dtype == "u1" else code * 31 + 7).astype(dtype)


def stored(layout: str, weight: str, values: Array) -> Stored:
    """How a layout stores a weight whose axes are e p i h, e h i, e p i or e h."""
    experts = range(len(values))
    if layout == "per-expert":
        suffix = "bias" if weight.endswith("bias") else "weight"
        if weight.startswith("down"):
            return [
                (f"experts.{e}.down_proj.{suffix}", {"e": e, "d": 0}, values[e]) for e in experts
            ]
        return [
            (f"experts.{e}.{name}.{suffix}", {"e": e, "p": p}, values[e, p])
            for e in experts
            for p, name in enumerate(("gate_proj", "up_proj"))
        ]
    suffix = "_bias" if weight.endswith("bias") else ""
    if layout == "stacked":
        if weight.startswith("down"):
            return [(f"experts.down_proj{suffix}", {"d": 0}, values)]
        return [
            (f"experts.gate_proj{suffix}", {"p": 0}, values[:, 0]),
            (f"experts.up_proj{suffix}", {"p": 1}, values[:, 1]),
        ]
    if weight.startswith("down"):
        return [(f"experts.down_proj{suffix}", {}, _fused_down(layout, weight, values))]
    return [(f"experts.gate_up_proj{suffix}", {}, _fused_gate_up(layout, weight, values))]


def _fused_down(layout: str, weight: str, values: Array) -> Array:
    if weight == "down_bias" or layout == "fused":
        return values
    turned = np.stack([matrix.T for matrix in values])
    return np.vstack(list(turned)) if layout == "fused-flat" else turned


def _fused_gate_up(layout: str, weight: str, values: Array) -> Array:
    gate, up = values[:, 0], values[:, 1]
    if weight == "gate_up_bias":
        if layout == "fused-interleaved":
            woven = np.empty((len(gate), 2 * gate.shape[1]), values.dtype)
            woven[:, 0::2], woven[:, 1::2] = gate, up
            return woven
        return np.hstack([gate, up])
    if layout == "fused":
        return np.concatenate([gate, up], axis=1)
    gate, up = gate.swapaxes(1, 2), up.swapaxes(1, 2)
    if layout == "fused-interleaved":
        woven = np.empty((*gate.shape[:2], 2 * gate.shape[2]), values.dtype)
        woven[:, :, 0::2], woven[:, :, 1::2] = gate, up
        return woven
    halves = np.concatenate([gate, up], axis=2)
    return halves.reshape(-1, halves.shape[2]) if layout == "fused-flat" else halves


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
        assert all(at >= 0 and at + how.run <= places[which][1] for which, at in reads)
        memory = np.concatenate(
            [np.arange(how.run, dtype=np.int64) + places[which][0] + at for which, at in reads]
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


def all_sizes(sizes: dict[str, int]) -> dict[str, int]:
    return {**sizes, "p": 2, "d": 1}


# --- templates ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "dims", "name_axes"),
    [
        ("experts.{e}.{p}.weight : i h", "experts.{e}.{p}.weight", (("i",), ("h",)), ("e", "p")),
        (
            "experts.gate_up_proj : e (p i) h",
            "experts.gate_up_proj",
            (("e",), ("p", "i"), ("h",)),
            (),
        ),
        ("  x : (e h)(p i)  ", "x", (("e", "h"), ("p", "i")), ()),
        ("x:( i  p )", "x", (("i", "p"),), ()),
        ("{q}_conv1d : out in k", "{q}_conv1d", (("out",), ("in",), ("k",)), ("q",)),
    ],
)
def test_a_template_is_read(
    text: str, name: str, dims: tuple[tuple[str, ...], ...], name_axes: tuple[str, ...]
) -> None:
    """Name, dimensions and axes of what is written."""
    template = Template.parse(text)
    assert (template.name, template.dims, template.name_axes) == (name, dims, name_axes)
    assert template.axes == tuple(axis for dim in dims for axis in dim)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "experts.gate_up_proj",
        " : e i h",
        "x : i i",
        "x : (e i) i",
        "x.{e} : e h",
        "x.{e}.{e} : h",
        "x : () i",
        "x : ( ) i",
        "x : (e h",
        "x : e h)",
        "x : (e (p i)) h",
        "x : e(p i",
        "x.{e : i",
        "x.{} : i",
        "a:b : i h",
    ],
)
def test_what_is_no_template_is_refused(text: str) -> None:
    """A mistake in a row of the table is an error of usage, never an axis with an odd name."""
    with pytest.raises(UsageError):
        Template.parse(text)


@pytest.mark.timeout(5)
@pytest.mark.parametrize(
    "text", ["x : " + 60 * "a" + "!", "x : (" + 60 * "a " + "!", 60 * "x" + "{"]
)
def test_a_long_mistake_is_seen_at_once(text: str) -> None:
    """However many ways there are to take it apart."""
    with pytest.raises(UsageError):
        Template.parse(text)


def test_shape_and_name() -> None:
    """A shape is a product for each dimension; a name has a token for each axis in it."""
    template = Template.parse("experts.{e}.{p}_and_{p2} : (a b) c")
    assert template.shape({"a": 2, "b": 3, "c": 5}) == (6, 5)
    assert template.tensor_name({"p2": "x", "e": "10", "p": "{e}"}) == "experts.10.{e}_and_x"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_names_and_shapes_of_the_table(layout: str, weight: str) -> None:
    """The table's templates give the names and shapes of the formulas."""
    sizes = {"e": 11, "i": 3, "h": 5}
    template = layouts()[layout].templates[weight]
    for name, position, values in stored(layout, weight, canonical(weight, sizes, "u2")):
        tokens = {a: str(k) if a == "e" else TOKENS[a][k] for a, k in position.items()}
        assert tuple(position) == template.name_axes
        assert template.tensor_name(tokens) == name
        assert template.shape(all_sizes(sizes)) == values.shape


# --- sizes -------------------------------------------------------------------------------------


def solved(layout: str, gate_up: tuple[int, ...], down: tuple[int, ...], experts: int) -> Any:
    templates = layouts()[layout].templates
    known = {"p": 2, "d": 1, **({"e": experts} if layout == "per-expert" else {})}
    pair = [((templates["gate_up"],), gate_up), ((templates["down"],), down)]
    return solve_sizes(pair, known)


@settings(deadline=None, max_examples=60)
@given(sizes=AXIS_SIZES, alike=st.sampled_from(["", "H = I", "H = 2 I"]))
def test_sizes_are_solved_from_the_pair(sizes: dict[str, int], alike: str) -> None:
    """E, I and H come from gate_up and down together, flat ones and square ones included."""
    if alike:
        sizes = {**sizes, "h": sizes["i"] * (2 if alike == "H = 2 I" else 1)}
    for layout in LAYOUTS:
        gate_up, down = (
            stored(layout, weight, canonical(weight, sizes, "u2"))[0][2].shape
            for weight in ("gate_up", "down")
        )
        assert solved(layout, gate_up, down, sizes["e"]) == all_sizes(sizes)


SHAPES: dict[str, Callable[[int, int, int], tuple[tuple[int, ...], tuple[int, ...]]]] = {
    "per-expert": lambda e, i, h: ((i, h), (h, i)),
    "fused": lambda e, i, h: ((e, 2 * i, h), (e, h, i)),
    "fused-transposed": lambda e, i, h: ((e, h, 2 * i), (e, i, h)),
    "fused-flat": lambda e, i, h: ((e * h, 2 * i), (e * i, h)),
    "stacked": lambda e, i, h: ((e, i, h), (e, h, i)),
    "fused-interleaved": lambda e, i, h: ((e, h, 2 * i), (e, i, h)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_never_two_answers(layout: str) -> None:
    """For every pair of small shapes: the only sizes that give it, or None where none do."""
    most = 6
    answers: dict[Any, list[tuple[int, int, int]]] = {}
    for e, i, h in itertools.product(range(1, most * most + 1), repeat=3):
        gate_up, down = SHAPES[layout](e, i, h)
        if max(*gate_up, *down) <= most and (layout != "per-expert" or e == 1):
            answers.setdefault((gate_up, down), []).append((e, i, h))
    rank = len(SHAPES[layout](1, 1, 1)[0])
    shapes = list(itertools.product(range(most + 1), repeat=rank))
    possible = 0
    for pair in itertools.product(shapes, shapes):
        found = solved(layout, *pair, 1)
        expected = answers.get(pair, [])
        assert len(expected) <= 1
        assert ([] if found is None else [(found["e"], found["i"], found["h"])]) == expected
        possible += len(expected)
    assert possible == len(answers) > 0


def test_impossible_or_open_sizes_are_none() -> None:
    """None for another rank, a remainder, nothing at all, and an axis that stays open."""
    flat, cube = Template.parse("x : (e h) (p i)"), Template.parse("x : e h i")
    assert solve_sizes([((cube,), (2, 3))], {}) is None
    assert solve_sizes([((cube,), (2, 3, 4))], {"h": 5}) is None
    assert solve_sizes([((cube,), (2, 0, 4))], {}) is None
    assert solve_sizes([((flat,), (6, 4))], {"p": 2}) is None
    assert solve_sizes([((flat,), (6, 4))], {"p": 2, "e": 4}) is None
    assert solve_sizes([((flat,), (6, 4))], {"p": 3, "e": 2}) is None
    assert solve_sizes([((flat,), (6, 4))], {"p": 2, "e": 2}) == {"p": 2, "e": 2, "h": 3, "i": 2}


def test_parts_of_a_tensor_add_up() -> None:
    """Query, key and value, of n and twice m heads, one behind the other: 8 + 2 + 2 rows."""
    of_n, of_m = Template.parse("x : (n c) h"), Template.parse("x : (m c) h")
    heads = {"n": 4, "m": 1}
    parts = (of_n, of_m, of_m)
    assert solve_sizes([(parts, (12, 5))], heads) == {**heads, "c": 2, "h": 5}
    assert solve_sizes([(parts, (13, 5))], heads) is None
    assert solve_sizes([(parts, (12, 5))], {"n": 4}) is None
    assert solve_sizes([(parts, (12, 5)), ((of_n,), (8, 5))], {"n": 4, "c": 2}) == {
        **heads,
        "c": 2,
        "h": 5,
    }
    assert solve_sizes([((of_n, of_m), (8, 5))], {"n": 4, "c": 2}) is None
    assert solve_sizes([((of_n, Template.parse("x : c h i")), (8, 5))], heads) is None


# --- rearrangements ----------------------------------------------------------------------------


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
        how = rearrange(
            layouts()[source].templates[weight],
            layouts()[target].templates[weight],
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
            have, want = (layouts()[name].templates[weight] for name in (source, target))
            how = rearrange(have, want, all_sizes(sizes), fixed, 16)
            holds_all = "e" not in fixed
            assert how.units == (sizes["e"] if holds_all else 1)
            assert how.unit_bytes * how.units == expected.nbytes
            assert how.buffer_bytes <= values[0].nbytes
            if how.is_copy:
                assert how.inputs * how.run == how.unit_bytes
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
        how = rearrange(template_of(*source), template_of(*target), sizes, fixed, 16)
        result = moved(how, inputs_of(have, fixed))
        assert result == expected.tobytes(), how
        used.append(np.frombuffer(result, np.uint16))
    assert sorted(np.concatenate(used)) == list(range(values.size))


def test_experts_that_are_not_outermost_are_one_unit() -> None:
    """Where one side has another axis outside of the experts, the tensor is made in one go."""
    values = np.arange(2 * 3 * 4 * 5, dtype=np.uint16).reshape(2, 3, 4, 5)
    source, target = Template.parse("x : p e i h"), Template.parse("y : e (p i) h")
    for have, want in ((source, target), (target, source)):
        how = rearrange(have, want, {"p": 2, "e": 3, "i": 4, "h": 5}, {}, 16)
        assert (how.units, how.inputs, how.buffer_bytes) == (1, 1, values.nbytes)
    how = rearrange(source, target, {"p": 2, "e": 3, "i": 4, "h": 5}, {}, 16)
    assert moved(how, [values]) == np.concatenate([values[0], values[1]], axis=1).tobytes()


def test_axes_of_one_side_alone() -> None:
    """An axis may be missing on one side where its size is one, and nowhere else."""
    source, target = Template.parse("x : e h i"), Template.parse("x.{d} : e i h")
    values = np.arange(2 * 3 * 4, dtype=np.uint16).reshape(2, 3, 4)
    how = rearrange(source, target, {"e": 2, "h": 3, "i": 4, "d": 1}, {"d": 0}, 16)
    assert moved(how, [values]) == values.swapaxes(1, 2).tobytes()
    with pytest.raises(UsageError, match="only one of them has d"):
        rearrange(source, target, {"e": 2, "h": 3, "i": 4, "d": 2}, {"d": 0}, 16)


@settings(deadline=None, max_examples=25)
@given(sizes=AXIS_SIZES, bits=st.sampled_from([4, 6]))
def test_elements_that_are_no_whole_bytes(sizes: dict[str, int], bits: int) -> None:
    """They move as copies of whole bytes, in their order, or not at all."""
    assume(sizes["i"] * sizes["h"] * bits % 8 == 0)
    for weight, source, target in itertools.product(("gate_up", "down"), LAYOUTS, LAYOUTS):
        # Codes of elements; 8 // bits of them, or parts of them, would share a byte.
        values = canonical(weight, sizes, "u2")
        have = stored(source, weight, values)
        templates = (layouts()[name].templates[weight] for name in (source, target))
        for_all = list(templates)
        for _, fixed, expected in stored(target, weight, values):
            inputs = inputs_of(have, fixed)
            try:
                how = rearrange(for_all[0], for_all[1], all_sizes(sizes), fixed, bits)
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
