"""A module that is filled tensor by tensor: what is placed, what waits, and what is refused."""

import pytest
import torch

from streamconv.catalog.families import HUB_NAMES
from streamconv.checkpoint.types import TensorInfo
from streamconv.errors import BadCheckpoint
from streamconv.planning.rearrangement import Rearrangement, copy_of
from streamconv.relaying.module_plan import ModulePlan, PlannedOutput
from streamconv.relaying.moves import plan_moves
from streamconv.relaying.open_module import OpenModule

PAIR = Rearrangement(
    units=2,
    inputs=1,
    advance=True,
    base=0,
    stride=0,
    input_bytes=8,
    start=0,
    shape=(8,),
    strides=(1,),
    itemsize=1,
)
"""Two inputs of two floats each, one after the other."""
TWO, ONE = plan_moves([PAIR], (2, 8), 8), plan_moves([copy_of(8)], (8,), 8)
PLAN = ModulePlan(
    (PlannedOutput("both", ("a", "b"), TWO), PlannedOutput("c", ("c",), ONE)),
    {"a": [(0, 0)], "b": [(0, 1)], "c": [(1, 0)]},
    HUB_NAMES,
)


def info(name: str) -> TensorInfo:
    return TensorInfo(name, "U8", (8,), "", 0, 8)


def tensor(value: int) -> torch.Tensor:
    return torch.full((8,), value, dtype=torch.uint8)


def module(*, views: bool = False, plan: ModulePlan | None = PLAN) -> OpenModule:
    made = OpenModule("model.layers.0.", views=views)
    made.plan = plan
    return made


def placed(at: OpenModule, name: str, value: int) -> list[tuple[str, list[list[int]]]]:
    return [(out.suffix, made.tolist()) for out, made in at.place(name, info(name), tensor(value))]


def test_an_output_comes_with_the_last_of_its_inputs() -> None:
    made = module()
    assert placed(made, "b", 2) == []
    assert made.held_bytes == 16
    assert placed(made, "a", 1) == [("both", [[1] * 8, [2] * 8])]
    assert made.held_bytes == 0
    assert placed(made, "c", 3)[0][0] == "c"


@pytest.mark.parametrize("views", [False, True])
def test_what_waits_is_copied_unless_views_are_wanted(views: bool) -> None:
    """A trainer uses the memory again for its next tensor."""
    made, buffer = module(views=views, plan=None), tensor(1)
    made.waiting["a"] = info("a"), buffer
    made.keep("a")
    buffer.fill_(9)
    assert int(made.waiting["a"][1][0]) == (9 if views else 1)
    assert made.held_bytes == 8


def test_what_the_plan_has_no_place_for_waits_until_it_is_settled() -> None:
    made = module(plan=None)
    made.waiting |= {"x": (info("x"), tensor(1)), "a": (info("a"), tensor(1))}
    assert made.next_to_place() is None
    made.plan = PLAN
    assert made.next_to_place() == "a"
    del made.waiting["a"]
    assert made.next_to_place() is None
    made.is_settled = True
    assert made.next_to_place() == "x"
    with pytest.raises(BadCheckpoint, match=r"unexpected tensor x: .* has 3 tensors"):
        placed(made, "x", 1)


def test_what_was_started_is_not_made_in_another_way() -> None:
    """A plan may change as long as none of its outputs has begun, and in others later."""
    other = ModulePlan((PlannedOutput("both", ("a",), ONE),), {"a": [(0, 0)]}, HUB_NAMES)
    made = module()
    made.plan = other
    made.plan = PLAN
    placed(made, "a", 1)
    with pytest.raises(BadCheckpoint, match=r"of model.layers.0. that came first .* a means"):
        made.plan = other
