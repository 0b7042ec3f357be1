"""Why tensors do not fit a format: the error names them, and what config.json says."""

from dataclasses import replace

import pytest
from decoded import decoded_of, source_of
from quantized import CASES

from streamconv.errors import BadCheckpoint


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"group_size": 16}, "config.json says group 16"),
        ({"symmetric": False}, "zero points a.weight_zero_point are missing"),
        ({"num_bits": 8}, "stored as int4, and config.json does not say so"),
    ],
)
def test_other_numbers_than_config_json_says(facts: dict[str, object], says: str) -> None:
    case = CASES["int4"]()
    case.config["quantization_config"]["config_groups"]["group_0"]["weights"].update(facts)
    with pytest.raises(BadCheckpoint, match=says):
        decoded_of(source_of(case), "BF16")


def test_two_tensors_for_one_purpose() -> None:
    case = CASES["fp8 channels"]()
    twice = {**case.tensors, ".weight_scale_inv": case.tensors[".weight_scale"]}
    with pytest.raises(BadCheckpoint, match=r"a.weight_scale and a.weight_scale_inv, and"):
        decoded_of(source_of(replace(case, tensors=twice)), "BF16")
