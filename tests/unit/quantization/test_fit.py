"""Sizes of matrices: those that a tensor says have to be those of the codes."""

from dataclasses import replace

import pytest
import torch
from decoded import decoded_of, source_of
from quantized import CASES

from streamconv.errors import BadCheckpoint


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ([24, 72], r"says \[24, 72\], and its codes are I32 \[24, 8\]"),
        ([25, 64], r"says \[25, 64\], and"),
        ([24, 0], "which is no matrix"),
        ([-24, 64], "which is no matrix"),
        ([24, 2**40], "says"),
    ],
)
def test_a_shape_that_is_not_that_of_the_codes(shape: list[int], says: str) -> None:
    case = CASES["int4"]()
    tensors = {**case.tensors, ".weight_shape": torch.tensor(shape)}
    with pytest.raises(BadCheckpoint, match=says) as error:
        decoded_of(source_of(replace(case, tensors=tensors)), "BF16")
    assert "a.weight_shape" in error.value.message
