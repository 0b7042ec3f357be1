"""Templates and solved sizes, compared with formulas in numpy."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stored import AXIS_SIZES, LAYOUTS, TOKENS, WEIGHTS, all_sizes, canonical, stored

from streamconv.catalog.catalog import default_catalog
from streamconv.catalog.templates import Template, solve_sizes
from streamconv.errors import UsageError

CATALOG = default_catalog()

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
    template = CATALOG.layouts[layout].templates[weight]
    for name, position, values in stored(layout, weight, canonical(weight, sizes, "u2")):
        tokens = {a: str(k) if a == "e" else TOKENS[a][k] for a, k in position.items()}
        assert tuple(position) == template.name_axes
        assert template.tensor_name(tokens) == name
        assert template.shape(all_sizes(sizes)) == values.shape


# --- sizes -------------------------------------------------------------------------------------


def solved(layout: str, gate_up: tuple[int, ...], down: tuple[int, ...], experts: int) -> Any:
    templates = CATALOG.layouts[layout].templates
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
    rank = len(SHAPES[layout](1, 1, 1)[0])
    most = 6 if rank == 2 else 4  # a dimension that two axes share is 2 * 3 = 3 * 2
    answers: dict[Any, list[tuple[int, int, int]]] = {}
    for e, i, h in itertools.product(range(1, most * most + 1), repeat=3):
        gate_up, down = SHAPES[layout](e, i, h)
        if max(*gate_up, *down) <= most and (layout != "per-expert" or e == 1):
            answers.setdefault((gate_up, down), []).append((e, i, h))
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
    """Query, key and value, of n and twice m heads, concatenated: 8 + 2 + 2 rows."""
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
