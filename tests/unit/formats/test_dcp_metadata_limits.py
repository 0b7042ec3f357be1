"""What reading a `.metadata` may take: values for each byte of it."""

import pytest

from streamconv.errors import BadCheckpoint
from streamconv.formats.dcp_metadata import SIZE
from streamconv.formats.dcp_metadata_limits import (
    CHUNK_BYTES,
    NODES_PER_BYTE,
    TENSOR_BYTES,
    Budget,
    reading_bytes,
)
from streamconv.formats.pickle_types import Object


def test_as_many_values_as_bytes_allow() -> None:
    """And not one more."""
    budget = Budget(10, "it")
    budget.spend(NODES_PER_BYTE * 10)
    with pytest.raises(BadCheckpoint, match="cannot read it: it repeats its lists"):
        budget.spend(1)


def test_sizes_count() -> None:
    budget = Budget(2, "it")
    assert budget.sizes_in(Object(SIZE, ((2, 3, 4, 5),))) == (2, 3, 4, 5)
    with pytest.raises(BadCheckpoint, match="more values than"):
        budget.sizes_in(Object(SIZE, ((1,),)))


@pytest.mark.parametrize(
    "value",
    [
        Object("torch.device", ((2, 3),)),
        Object(SIZE, ((2,), (3,))),
        Object(SIZE, ([2, 3],)),
        Object(SIZE, ((-1,),)),
    ],
)
def test_anything_else_is_no_size(value: Object) -> None:
    with pytest.raises(TypeError):
        Budget(10, "it").sizes_in(value)


def test_memory_grows_with_tensors_and_chunks() -> None:
    """Measured in `test_dcp_metadata.py`."""
    assert reading_bytes(0, 0) == 0
    assert reading_bytes(3, 5) == 3 * TENSOR_BYTES + 5 * CHUNK_BYTES
