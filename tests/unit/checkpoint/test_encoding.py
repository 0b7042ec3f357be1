"""A view inside of a tensor: where its elements are, and what has to be read for them."""

import pytest
import torch

from streamconv.checkpoint.encoding import BAND_ELEMENTS, Encoding, View, view_bytes


@pytest.mark.parametrize("shape", [(3, 4), (1, 4), (3, 1), (1, 1)])
@pytest.mark.parametrize("start", [0, 1, 8, 17])
def test_the_span_has_every_element(shape: tuple[int, int], start: int) -> None:
    """For rows of the tensor, for columns, and for every second element; as torch places them."""
    flat = torch.arange(48)
    for strides in ((4, 1), (1, 4), (8, 2)):
        elements = flat.as_strided(shape, strides, start)
        view = View(start, strides)
        begin, end = view.span(shape)
        assert begin <= int(elements.min())
        assert int(elements.max()) < end
        assert view.is_contiguous(shape) == elements.is_contiguous()


def test_matrices_next_to_each_other_have_one_span() -> None:
    """So that what is read for one of them serves the other."""
    for strides in ((8, 2), (2, 8)):
        shape = (3, 4) if strides[0] == 8 else (4, 3)
        assert View(24, strides).span(shape) == View(25, strides).span(shape) == (24, 48)


def test_a_contiguous_view_is_read_in_place() -> None:
    assert view_bytes(None, (3, 4), "BF16") == 0
    assert view_bytes(View(5, (4, 1)), (3, 4), "BF16") == 0
    assert view_bytes(View(0, (1, 4)), (3, 4), "BF16") == 2 * 16


def test_bands_are_whole_blocks() -> None:
    def band(rows: int, columns: int, block: int) -> int:
        return Encoding("x", None, (rows, columns), (block, 128), "BF16", "F32", "codes").band_rows

    assert band(10**6, 2**12, 128) == BAND_ELEMENTS // 2**12
    assert band(10**6, 2**20, 128) == 128
    assert band(100, 2**20, 128) == 100
