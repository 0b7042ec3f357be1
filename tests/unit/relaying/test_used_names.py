"""No tensor comes twice, and no two outputs have one name."""

import pytest

from streamconv.checkpoint.types import TensorInfo
from streamconv.errors import BadCheckpoint, PlanRefused
from streamconv.relaying.used_names import UsedNames


def info(name: str) -> TensorInfo:
    return TensorInfo(name, "F32", (2,), "", 0, 8)


def test_a_tensor_that_comes_again_is_named_with_both_numbers() -> None:
    names = UsedNames()
    for name in ("a", "b", "c"):
        names.take(name, info(name))
    assert "b" in names
    assert "d" not in names
    with pytest.raises(BadCheckpoint, match="tensor b comes twice: as number 2 and as number 4"):
        names.take("b", info("b"))


def test_an_output_may_have_the_name_of_an_input_but_not_of_an_output() -> None:
    names, split = UsedNames(), info("fused")
    names.take("a", info("a"))
    assert [names.give(name, split) for name in ("a", "b")] == ["a", "b"]
    with pytest.raises(PlanRefused, match="called b: fused and other"):
        names.give("b", info("other"))
