"""Scales of blocks and stored numbers, compared with torch and with exact logarithms."""

import math

import numpy as np
import pytest
import torch

from streamconv.quantization.block_scales import (
    exponent_of_infinity,
    near_powers,
    powers_above,
    rounded,
    widened,
)

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_every_number_of_16_bits(dtype: str) -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    wanted = torch.from_numpy(bits.view(np.int16)).view(DTYPES[dtype]).float().numpy()
    np.testing.assert_array_equal(widened(bits, dtype), wanted)
    first = exponent_of_infinity(dtype) << {"BF16": 7, "F16": 10}[dtype]
    assert np.isinf(widened(np.array([first], np.uint16), dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding(dtype: str) -> None:
    values = np.random.default_rng(1).standard_normal((40, 50)).astype(np.float32)
    wanted = torch.from_numpy(values).to(DTYPES[dtype]).float().numpy()
    np.testing.assert_array_equal(rounded(values, dtype), wanted)


def test_the_power_that_is_not_below() -> None:
    scales = np.array([1.0, 1.0000001, 0.75, 0.5, 3e-20, 7e19], np.float32)
    wanted = [2.0 ** math.ceil(math.log2(float(scale))) for scale in scales]
    assert powers_above(scales).tolist() == wanted


@pytest.mark.parametrize(
    ("largest", "power"), [(6.0, 1.0), (6.99, 1.0), (7.0, 2.0), (4.0, 1.0), (3.5, 1.0), (3.4, 0.5)]
)
def test_the_power_that_is_near(largest: float, power: float) -> None:
    """A quarter of the largest number's power; from 1.75 times a power on, of the next one."""
    bits = torch.tensor([largest]).view(torch.int32).numpy().view(np.uint32)
    assert near_powers(bits, "F32").tolist() == [power]
