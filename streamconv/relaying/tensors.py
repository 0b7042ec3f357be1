"""Makes output tensors of torch by the moves of a plan, on the device of the inputs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from streamconv.errors import BadCheckpoint, quoted
from streamconv.relaying.moves import Move, Moves

if TYPE_CHECKING:
    import torch


class Assembly:
    """An output tensor whose inputs are arriving. It copies inputs, and keeps none."""

    def __init__(self, moves: Moves) -> None:
        self._moves = moves
        self._left = len(moves.by_input)
        self._made: torch.Tensor | None = None
        self._first = ""

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it holds."""
        return 0 if self._made is None else self._made.nbytes

    def add(self, number: int, name: str, tensor: "torch.Tensor") -> "torch.Tensor | None":
        """Copy the parts that come from one input; return the output if it was the last input.

        Args:
            number: Number of the input among the output's inputs.
            name: Name of the input, for messages.
            tensor: The input, contiguous.

        Raises:
            BadCheckpoint: It is on another device than the inputs before it.
        """
        import torch

        with torch.no_grad():
            if self._made is None:
                self._made = tensor.new_empty(self._moves.shape)
                self._first = name
            if tensor.device != self._made.device:
                raise BadCheckpoint(
                    f"tensor {quoted(name)} is on {tensor.device}, {quoted(self._first)} on "
                    f"{self._made.device}: tensors that become one have to be on one device",
                    "move them to one device as they are emitted",
                )
            _fill(self._made, self._moves.by_input[number], tensor)
        self._left -= 1
        return None if self._left else self._made


def make_of_one(moves: Moves, tensor: "torch.Tensor", *, views: bool) -> "torch.Tensor":
    """Return an output tensor that has one input.

    Args:
        moves: How it is made.
        tensor: The input; contiguous, unless the output is all of it.
        views: True to return a view of the input if there is one.
    """
    import torch

    with torch.no_grad():
        if moves.is_whole:
            whole = tensor.detach().reshape(moves.shape)
            return whole if views else whole.contiguous()
        if views and moves.view is not None:
            return _strided(tensor.detach(), moves.view)
        made = tensor.new_empty(moves.shape)
        _fill(made, moves.by_input.get(0, ()), tensor)
        return made


def _fill(made: "torch.Tensor", moves: Sequence[Move], tensor: "torch.Tensor") -> None:
    """Copy parts of an input to their places."""
    for move in moves:
        target = made.as_strided(move.extents, move.target_strides, move.place)
        target.copy_(_strided(tensor, move))


def _strided(tensor: "torch.Tensor", move: Move) -> "torch.Tensor":
    """Return the view of an input that a move takes."""
    offset = tensor.storage_offset() + move.offset
    return tensor.as_strided(move.extents, move.strides, offset)
