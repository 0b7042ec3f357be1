"""Every number format, decoded bit for bit as its own library or the formula in torch does."""

from collections.abc import Iterator

import pytest
import torch
from decoded import TARGETS, decoded_of, raw, read_cast, source_of
from quantized import CASES, Case


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    torch.manual_seed(7)
    yield CASES[request.param]()


@pytest.mark.parametrize("target", TARGETS)
def test_decoded_as_its_library_does(case: Case, target: str) -> None:
    source = source_of(case)
    wanted = case.decoded(TARGETS[target])
    info = decoded_of(source, target)
    assert (info.dtype, info.shape) == (target, tuple(wanted.shape))
    assert info.name in ("a", "a.weight")
    assert read_cast(source, info) == raw(wanted)


def test_any_range_of_it(case: Case) -> None:
    """Ranges that begin and end inside rows, groups and bytes."""
    source = source_of(case)
    whole = raw(case.decoded(torch.bfloat16))
    info = decoded_of(source, "BF16")
    generator = torch.Generator().manual_seed(3)
    for _ in range(60):
        ends = torch.randint(0, len(whole) // 2 + 1, (2,), generator=generator).tolist()
        begin, end = sorted(ends)
        assert read_cast(source, info, 2 * begin, 2 * (end - begin)) == whole[2 * begin : 2 * end]
