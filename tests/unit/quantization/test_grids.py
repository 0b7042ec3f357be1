"""The grids of a quantized matrix, read as torch holds them."""

import numpy as np
import pytest
import quantized
import torch
from decoded import decoded_of, raw, source_of
from quantized import Case

from streamconv.errors import BadCheckpoint
from streamconv.quantization.grids import Grids
from streamconv.quantization.unpack import LoadedPlane
from streamconv.quantization.workspace import Workspace


def grids_of(case: Case) -> Grids:
    """The grids of a weight called `a`, all of them in memory."""
    cast = decoded_of(source_of(case), "BF16").cast
    assert cast is not None
    assert cast.decoding is not None
    pairs = zip(cast.companions, cast.decoding.planes, strict=True)
    others = {
        role: LoadedPlane.of(info.name, plane, 0, raw(case.tensors[info.name.removeprefix("a")]))
        for info, (role, plane) in pairs
        if role != "shape"
    }
    return Grids(cast.decoding, "a", others, Workspace())


def test_scales_of_some_rows() -> None:
    torch.manual_seed(4)
    case = quantized.fp8_block(64, 48)
    scales = case.tensors[".weight_scale_inv"].numpy()
    grids = grids_of(case)
    np.testing.assert_array_equal(grids.first_scales(range(20, 40)), scales[1:3])
    np.testing.assert_array_equal(grids.with_second(scales, range(64)), scales)


@pytest.mark.parametrize(
    ("make", "name", "combined"),
    [
        (quantized.nvfp4, ".weight_scale_2", lambda first, second: first * second),
        (quantized.nvfp4_packed, ".weight_global_scale", lambda first, second: first / second),
    ],
)
def test_a_second_scale(make: object, name: str, combined: object) -> None:
    """It multiplies or divides, in float32."""
    torch.manual_seed(5)
    assert callable(make)
    assert callable(combined)
    case = make(16, 64)
    grids = grids_of(case)
    first = grids.first_scales(range(16)).copy()
    wanted = combined(torch.from_numpy(first), case.tensors[name].float()).numpy()
    np.testing.assert_array_equal(grids.with_second(first, range(16)), wanted)
    ((rows, second),) = grids.parts_by_second(range(3, 9))
    assert (rows, float(second)) == (range(3, 9), float(case.tensors[name]))


@pytest.mark.parametrize(
    ("make", "name", "dtype"),
    [
        (quantized.nvfp4, ".weight_scale", torch.float8_e4m3fn),
        (quantized.mxfp4_packed, ".weight_scale", torch.float8_e8m0fnu),
    ],
)
def test_usual_scales(make: object, name: str, dtype: torch.dtype) -> None:
    """Each of the 256, in one row of scales among others."""
    torch.manual_seed(6)
    assert callable(make)
    case = make(8, 64)
    scales = case.tensors[name].view(torch.uint8)
    for code in range(256):
        scales[5, 1] = code
        value = torch.tensor(code, dtype=torch.uint8).view(dtype).float()
        grids = grids_of(case)
        assert grids.are_usual(range(4, 7)) == bool(value.isfinite() and value != 0)
        assert grids.are_usual(range(5))


def test_a_scale_that_is_no_number() -> None:
    torch.manual_seed(6)
    case = quantized.fp8_block(64, 48)
    case.tensors[".weight_scale_inv"][2, 1] = torch.inf
    grids = grids_of(case)
    grids.first_scales(range(32))
    with pytest.raises(BadCheckpoint, match=r"a\.weight_scale_inv holds the scale inf"):
        grids.first_scales(range(32, 48))
