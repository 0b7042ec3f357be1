"""Codes become numbers, and those that their format does not have are refused."""

from dataclasses import replace

import pytest
from decoded import changed, decoded_of, raw, read_cast, source_of
from quantized import CASES

from streamconv.errors import BadCheckpoint


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
