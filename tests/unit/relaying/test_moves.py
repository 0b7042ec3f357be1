"""Moves, compared with slices of numpy."""

import numpy as np

from streamconv.planning.rearrangement import Rearrangement, copy_of
from streamconv.relaying.moves import Move, plan_moves

FUSED = Rearrangement(
    units=4,
    inputs=2,
    advance=True,
    base=0,
    stride=0,
    input_bytes=2 * 15,
    start=0,
    shape=(30,),
    strides=(1,),
    itemsize=2,
)
"""Gate and up, [3, 5] each of 2 bytes an element, of four experts in one tensor, [4, 6, 5]."""


def test_each_input_has_a_place_of_its_own() -> None:
    moves = plan_moves([FUSED], (4, 6, 5), 30)
    assert {number: [move.place for move in own] for number, own in moves.by_input.items()} == {
        number: [15 * number] for number in range(8)
    }
    assert moves.view is None
    assert not moves.is_whole


def test_a_part_of_one_input_is_a_view() -> None:
    """Up of expert 2 of `e h (p i)`: every other half of the columns, and turned."""
    sizes, element = (4, 5, 6), 8
    how = Rearrangement(1, 1, False, 2 * 30 * element, 0, 30 * element, 3, (3, 5), (1, 6), element)
    moves = plan_moves([how], (3, 5), 4 * 30 * element)
    assert moves.view == Move((3, 5), 63, (1, 6), 0, (5, 1))
    array = np.arange(120).reshape(sizes)
    view = np.lib.stride_tricks.as_strided(array.ravel()[63:], (3, 5), (8, 48))
    assert (view == array[2, :, 3:].T).all()


def test_all_bytes_of_one_input_are_no_move() -> None:
    assert plan_moves([copy_of(24)], (3, 4), 24).is_whole
    assert not plan_moves([copy_of(24)], (3, 4), 48).is_whole


def test_nothing_moves_into_an_empty_output() -> None:
    empty = Rearrangement(4, 1, True, 0, 0, 0, 0, (0,), (1,), 2)
    moves = plan_moves([empty], (4, 0, 5), 8)
    assert [*moves.by_input] == [0, 1, 2, 3]
    assert not any(moves.by_input.values())
