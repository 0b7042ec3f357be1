"""Codes become numbers, and those that their format does not have are refused."""

from dataclasses import replace

import numpy as np
import pytest
from decoded import changed, decoded_of, raw, read_cast, source_of
from quantized import CASES

from streamconv.checkpoint.decoding import Plane
from streamconv.errors import BadCheckpoint
from streamconv.quantization.unpack import LoadedPlane, grid_rows
from streamconv.quantization.workspace import Workspace


def test_codes_that_are_too_wide() -> None:
    """Codes of 4 bits, each in a byte of its own."""
    case = CASES["int8"]()
    weights = case.config["quantization_config"]["config_groups"]["group_0"]["weights"]
    weights["num_bits"] = 4
    narrow = replace(case, tensors={**case.tensors, ".weight": case.tensors[".weight"] >> 4})
    source = source_of(narrow)
    scale = case.tensors[".weight_scale"]
    wanted = (narrow.tensors[".weight"].float() * scale.float()).bfloat16()
    assert read_cast(source, decoded_of(source, "BF16")) == raw(wanted)
    source = source_of(changed(narrow, ".weight", 40, 8))
    with pytest.raises(BadCheckpoint, match=r"a.weight has the code 8, and codes of 4 bits are"):
        read_cast(source, decoded_of(source, "BF16"))


@pytest.mark.parametrize(("nbytes", "dtype"), [(4, "U16"), (3, "U8"), (1, "U8")])
def test_turned_codes_keep_their_rows(nbytes: int, dtype: str) -> None:
    """Two in a byte, along the rows of a grid; pairs of bytes are turned as one element."""
    outputs, inputs = 600, 2 * nbytes
    numbers = np.random.default_rng(1).integers(0, 16, (outputs, inputs), np.uint8)
    stored = numbers[:, ::2] | numbers[:, 1::2] << 4
    plane = Plane(
        "U8", "int", 4, 8, (inputs, outputs), (1, 1), (outputs, nbytes), is_transposed=True
    )
    loaded = LoadedPlane.of("a", replace(plane, packed="rows"), 0, stored.tobytes())
    assert loaded.plane.dtype == dtype
    wanted = numbers.T.astype(np.float32) - 8
    for rows in (range(inputs), range(1, inputs), range(inputs - 1)):
        found = grid_rows(loaded, rows, outputs, "codes", Workspace())
        assert (found == wanted[rows.start : rows.stop]).all()
