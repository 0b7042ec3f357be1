"""What a relay keeps in memory is counted by module and by layer."""

import pytest
import torch

from streamconv.checkpoint.types import TensorInfo
from streamconv.errors import PlanRefused
from streamconv.relaying.held_modules import HeldModules, name_of_layer
from streamconv.relaying.open_module import OpenModule


def holding(prefix: str, nbytes: int) -> OpenModule:
    """A module with one tensor that waits."""
    module = OpenModule(prefix, views=False)
    tensor = torch.zeros(nbytes, dtype=torch.uint8)
    module.waiting["w"] = TensorInfo("w", "U8", (nbytes,), "", 0, nbytes), tensor
    return module


def layer(number: int, part: str = "mlp") -> str:
    return f"model.layers.{number}.{part}."


def test_bytes_of_all_modules_count_and_their_peak_stays() -> None:
    held = HeldModules()
    one, other = holding(layer(0), 5), holding(layer(1), 7)
    for module in (one, other, one):
        held.update(module)
    assert (held.held_bytes, held.peak_bytes) == (12, 12)
    one.waiting.clear()
    held.update(one)
    assert (held.held_bytes, held.peak_bytes) == (7, 12)
    held.clear()
    assert (held.held_bytes, held.peak_bytes) == (0, 12)


def test_two_modules_of_a_layer_are_one_open_layer() -> None:
    held = HeldModules()
    for part in ("mlp", "self_attn"):
        held.update(holding(layer(3, part), 1))
    held.check(1)
    assert held.surplus(1) == []


def test_the_layer_that_came_last_is_the_one_too_many() -> None:
    """An empty module opens no layer; one that is updated again came last."""
    held = HeldModules()
    first = holding(layer(4), 1)
    for module in (first, holding(layer(5), 1), holding(layer(6), 0), first):
        held.update(module)
    assert held.surplus(2) == []
    assert held.surplus(1) == ["model.layers.5"]
    held.check(2)
    with pytest.raises(PlanRefused, match=r"cannot begin model.layers.4: model.layers.5 is "):
        held.check(1)


@pytest.mark.parametrize(
    ("prefix", "name"),
    [("model.layers.12.mlp.", "model.layers.12"), ("vision.merger.", "vision.merger.")],
)
def test_a_module_in_no_layer_is_one_of_its_own(prefix: str, name: str) -> None:
    assert name_of_layer(prefix) == name
