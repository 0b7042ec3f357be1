"""Outputs are filled by strided copies, or are views of their only input."""

import pytest
import torch

from streamconv.errors import BadCheckpoint
from streamconv.planning.rearrangement import Rearrangement, copy_of
from streamconv.relaying.moves import Moves, plan_moves
from streamconv.relaying.tensors import Assembly, make_of_one


def transposed(rows: int, columns: int, inputs: int = 1) -> Rearrangement:
    """One matrix of floats, transposed, or several that are concatenated first."""
    return Rearrangement(
        units=1,
        inputs=inputs,
        advance=False,
        base=0,
        stride=0,
        input_bytes=4 * rows * columns,
        start=0,
        shape=(columns, rows * inputs),
        strides=(1, columns),
        itemsize=4,
    )


def moves(inputs: int = 1) -> Moves:
    return plan_moves([transposed(2, 3, inputs)], (3, 2 * inputs), 24)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_an_output_is_complete_with_its_last_input(order: tuple[int, int]) -> None:
    """In either order; memory is taken with the first one."""
    parts = [torch.arange(6.0).reshape(2, 3), 10 + torch.arange(6.0).reshape(2, 3)]
    assembly = Assembly(moves(2))
    assert assembly.nbytes == 0
    first, last = order
    assert assembly.add(first, "first", parts[first]) is None
    assert assembly.nbytes == 48
    made = assembly.add(last, "last", parts[last])
    assert made is not None
    assert made.equal(torch.cat(parts).T)


def test_inputs_on_two_devices_are_refused_by_name() -> None:
    assembly = Assembly(moves(2))
    assembly.add(0, "first", torch.zeros(2, 3))
    with pytest.raises(BadCheckpoint, match="tensor second is on meta, first on cpu"):
        assembly.add(1, "second", torch.zeros(2, 3, device="meta"))


@pytest.mark.parametrize("views", [False, True])
def test_an_output_of_one_input(views: bool) -> None:
    """A view shares memory and may be strided; a copy is contiguous. No gradient flows."""
    tensor = torch.arange(6.0).reshape(2, 3).requires_grad_()
    made = make_of_one(moves(), tensor, views=views)
    assert made.equal(tensor.T)
    assert (made.data_ptr() == tensor.data_ptr()) == views
    assert made.is_contiguous() != views
    assert not made.requires_grad


@pytest.mark.parametrize("views", [False, True])
def test_an_output_that_is_its_input(views: bool) -> None:
    """Only one that is not contiguous is copied, unless views are wanted."""
    whole = plan_moves([copy_of(24)], (6,), 24)
    tensor = torch.arange(6.0)
    assert make_of_one(whole, tensor, views=views).data_ptr() == tensor.data_ptr()
    turned = torch.arange(6.0).reshape(2, 3).T
    made = make_of_one(plan_moves([copy_of(24)], (3, 2), 24), turned, views=views)
    assert made.equal(turned)
    assert made.is_contiguous() != views


def test_an_input_that_begins_inside_its_memory() -> None:
    """The offset of a view is added to that of the move."""
    memory = torch.arange(9.0)
    part = memory[3:].reshape(2, 3)
    for views in (False, True):
        assert make_of_one(moves(), part, views=views).equal(part.T)
