"""Every pair of a scale of 8 bits and codes of 4, against the product of both in torch."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from streamconv.checkpoint.decoding import Decoding, Plane
from streamconv.quantization.pair_tables import has_pair_table, look_up, pair_table
from streamconv.quantization.unpack import E2M1, LoadedPlane
from streamconv.quantization.workspace import Workspace

VALUES = torch.tensor([*E2M1, *(-value for value in E2M1)])
EVERY = np.arange(256, dtype=np.uint8)
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16}
SCALES = {"F8_E4M3": torch.float8_e4m3fn, "F8_E8M0": torch.float8_e8m0fnu}


def planes(scale: str, packed: str) -> tuple[Decoding, Mapping[str, Plane]]:
    """A matrix that has each scale once, for 32 codes of a row or, across them, of a column."""
    rows, columns = (256, 32) if packed == "columns" else (32, 256)
    block = (1, 32) if packed == "columns" else (32, 1)
    grid = (256, 1) if packed == "columns" else (1, 256)
    stored = (rows, columns // 2) if packed == "columns" else (rows // 2, columns)
    codes = Plane("U8", "e2m1", 4, 0, (rows, columns), (1, 1), stored, packed=packed)
    scales = Plane(scale, "float", 8, 0, grid, block, grid)
    return Decoding("x", (rows, columns), codes, (("scale", scales),)), {"scale": scales}


@pytest.mark.parametrize("target", DTYPES)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("packed", ["columns", "rows"])
def test_every_scale_with_every_code(scale: str, packed: str, target: str) -> None:
    decoding, others = planes(scale, packed)
    assert has_pair_table(decoding, target)
    rng = np.random.default_rng(4)
    raw = rng.permutation(np.repeat(EVERY, 16)).reshape(decoding.codes.stored)
    scales = EVERY.reshape(others["scale"].stored)
    codes = LoadedPlane("a", decoding.codes, 0, raw)
    loaded = {"scale": LoadedPlane("s", others["scale"], 0, scales)}
    numbers = torch.empty(decoding.shape)
    pairs = (
        numbers.reshape(256, 16, 2).unbind(-1)
        if packed == "columns"
        else (numbers[::2], numbers[1::2])
    )
    for shift, half in zip((0, 4), pairs, strict=True):
        half[:] = VALUES[torch.from_numpy((raw >> shift & 15).astype(np.int64))]
    factors = torch.from_numpy(scales.copy()).view(SCALES[scale]).float()
    with np.errstate(all="ignore"):
        table = pair_table(decoding, None, target, Workspace())
    wanted = (numbers * factors).to(DTYPES[target])
    is_scale = (factors.isfinite() & (factors != 0)).expand(decoding.shape)
    for rows in (range(decoding.shape[0]), range(3, 10), range(6, 7), range(5, 31)):
        result = np.empty((len(rows), decoding.shape[1]), np.uint16)
        look_up(table, codes, loaded, rows, result, Workspace())
        found = torch.from_numpy(result).view(DTYPES[target])
        kept = is_scale[rows.start : rows.stop]
        bits = [each[kept].view(torch.int16) for each in (found, wanted[rows.start : rows.stop])]
        assert torch.equal(*bits)


def test_a_second_scale_has_a_table_of_its_own() -> None:
    decoding, _ = planes("F8_E4M3", "columns")
    workspace = Workspace()
    with np.errstate(all="ignore"):
        one = pair_table(decoding, None, "BF16", workspace).copy()
        other = pair_table(decoding, np.float32(0.25), "BF16", workspace).copy()
        again = pair_table(decoding, None, "BF16", workspace)
    assert (one != other).any()
    assert (one == again).all()


@pytest.mark.parametrize("scale", ["BF16", "F32"])
def test_wide_scales_have_no_table(scale: str) -> None:
    decoding, _ = planes(scale, "columns")
    assert not has_pair_table(decoding, "BF16")
