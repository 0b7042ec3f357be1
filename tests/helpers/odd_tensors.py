"""Tensors of torch that are like others, except for their memory."""

import mmap
import tempfile
import warnings
from collections.abc import Callable

import torch

Make = Callable[[torch.Tensor], torch.Tensor]


def freed(plain: torch.Tensor, left: int = 0) -> torch.Tensor:
    """A tensor whose storage was cut to `left` bytes, as FSDP does between uses."""
    plain.untyped_storage().resize_(left)
    return plain


def overlapping(plain: torch.Tensor) -> torch.Tensor:
    """Rows that begin one element after each other, so that most elements are in several."""
    return plain.as_strided(plain.shape, (1, 1))


def mapped(plain: torch.Tensor) -> torch.Tensor:
    """A tensor over a file that is mapped for reading."""
    with tempfile.TemporaryFile() as file:
        file.truncate(plain.nbytes)
        memory = mmap.mmap(file.fileno(), plain.nbytes, prot=mmap.PROT_READ)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that it must not be written
        return torch.frombuffer(memory, dtype=plain.dtype).reshape(plain.shape)


WITHOUT_MEMORY: dict[str, tuple[Make, str]] = {
    "freed": (freed, "a tensor whose memory was freed"),
    "cut": (lambda plain: freed(plain, 8), "a tensor whose memory was freed"),
    "expanded": (
        lambda plain: plain[:, :1].expand(plain.shape),
        "a tensor of which several elements share memory",
    ),
    "overlapping": (overlapping, "a tensor of which several elements share memory"),
    "mapped": (mapped, "in memory that cannot be written, such as a map of a file"),
    "int": (lambda plain: plain.int(), "int32, and does not hold what the checkpoint has"),
}
"""Tensors that cannot be filled with floating-point numbers, and what an error says of each."""


def made_for_inference(plain: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return plain.clone()


def every_other_column(plain: torch.Tensor) -> torch.Tensor:
    rows, columns = plain.shape
    return plain.new_zeros(rows, 2 * columns)[:, ::2]


WITH_MEMORY: dict[str, Make] = {
    "inference": made_for_inference,
    "inference with strides": lambda plain: made_for_inference(plain.T.contiguous()).T,
    "transposed": lambda plain: plain.T.contiguous().T,
    "strided": every_other_column,
    "negative": torch._neg_view,
    "with a gradient": lambda plain: plain.requires_grad_() * 1,
    "of a subclass": lambda plain: plain.as_subclass(torch.nn.Buffer),
    "wider": torch.Tensor.double,
    "complex": lambda plain: plain.to(torch.complex64),
}
"""Tensors that are filled in place."""
