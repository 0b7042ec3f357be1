"""Experts are complete, numbered without a gap, alike, and in order; or the error names one."""

import pytest

from streamconv.catalog.catalog import default_catalog
from streamconv.catalog.layouts import NamedLayout
from streamconv.catalog.name_lookup import NameMatch
from streamconv.checkpoint.types import TensorInfo
from streamconv.detection.completeness import complete_weights, required_pair
from streamconv.detection.expert_names import NamedTensors
from streamconv.errors import BadCheckpoint

CATALOG = default_catalog()
KNOWN = CATALOG.names_to_weights()
PREFIX = "model.layers.0.mlp."
KEYS = {short: f"experts.*.{short}_proj.weight" for short in ("gate", "up", "down")}


def row_of(layout: str, key: str) -> NamedLayout:
    return next(match.row for match in KNOWN[key] if match.row.layout.name == layout)


def info(key: str, number: int | None, shape: tuple[int, ...] = (4, 4)) -> TensorInfo:
    return TensorInfo(PREFIX + key.replace("*", str(number)), "BF16", shape, "", 0, 32)


def completed(
    numbers: dict[str, list[int]], **shapes: tuple[int, ...]
) -> dict[str, tuple[TensorInfo, ...]]:
    """Of experts one by one: `numbers` are those that each projection has."""
    found, meanings = NamedTensors(), dict[str, NameMatch]()
    row = row_of("per-expert", KEYS["gate"])
    for short, present in numbers.items():
        key = KEYS[short]
        shape = shapes.get(short, (4, 4))
        found.matches[key] = KNOWN[key]
        found.tensors[key] = {number: info(key, number, shape) for number in present}
        meanings[key] = next(match for match in KNOWN[key] if match.row == row)
    return complete_weights(PREFIX, found, row, meanings, CATALOG.required_weight_pairs)


def test_tensors_are_in_the_order_of_experts_then_projections() -> None:
    """Whatever order they are found in."""
    made = completed({"down": [1, 0], "up": [1, 0], "gate": [1, 0]})
    names = [info.name.removeprefix(PREFIX) for info in made["gate_up"]]
    assert names == [
        f"experts.{number}.{name}_proj.weight" for number in (0, 1) for name in ("gate", "up")
    ]
    assert [info.name.split(".")[5] for info in made["down"]] == ["0", "1"]


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"gate": [0, 1], "up": [0, 1]}, r"but no experts\.\*\.down_proj\.weight"),
        ({"gate": [0, 2], "up": [0, 2], "down": [0, 2]}, r"experts\.1\.gate_proj.*experts 0 and 2"),
        ({key: [0, 2, 4] for key in KEYS}, r"there are experts 0, 2 and 4 here"),
        ({key: [0, 2, 4, 6, 8] for key in KEYS}, r"experts 0, 2, 4, 6 and 1 more run here"),
        ({key: [*range(0, 12, 2)] for key in KEYS}, r"experts 0, 2, 4, 6 and 2 more runs here"),
        ({"gate": [0, 1], "up": [0], "down": [0, 1]}, r"experts\.1\.up_proj\.weight is missing"),
        ({"gate": [0], "down": [0]}, r"experts\.0\.up_proj\.weight is missing"),
    ],
)
def test_what_is_missing_is_named(numbers: dict[str, list[int]], message: str) -> None:
    with pytest.raises(BadCheckpoint, match=message):
        completed(numbers)


def test_gate_and_up_have_to_be_alike() -> None:
    numbers = {key: [0] for key in KEYS}
    with pytest.raises(BadCheckpoint, match=r"up_proj.weight is BF16 \[4, 5\].* have to be alike"):
        completed(numbers, up=(4, 5))


def test_two_names_of_one_weight() -> None:
    """Here both meanings are the same place: the first projection."""
    row = row_of("per-expert", KEYS["gate"])
    match = next(match for match in KNOWN[KEYS["gate"]] if match.row == row)
    found = NamedTensors()
    for key in (KEYS["gate"], KEYS["up"]):
        found.matches[key] = KNOWN[key]
        found.tensors[key] = {0: info(key, 0)}
    with pytest.raises(BadCheckpoint, match="are two names of one weight"):
        complete_weights(
            PREFIX, found, row, dict.fromkeys(found.tensors, match), CATALOG.required_weight_pairs
        )


def test_the_pair_that_a_module_has_to_have() -> None:
    """The first of which one is there; the plain one if none is."""
    pairs = [("gate_up", "down"), ("gate_up.packed", "down.packed")]
    assert required_pair(["down.packed"], pairs) == pairs[1]
    assert required_pair(["gate_up", "down.packed"], pairs) == pairs[0]
    assert required_pair([], pairs) == pairs[0]
