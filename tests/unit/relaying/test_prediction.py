"""What all experts of a layer are, predicted from those that have come."""

from collections.abc import Sequence

import pytest

from streamconv.catalog.catalog import default_catalog
from streamconv.catalog.layouts import NamedLayout
from streamconv.checkpoint.types import TensorInfo
from streamconv.errors import BadCheckpoint
from streamconv.relaying.modules import ExpertKey
from streamconv.relaying.prediction import Found, Prediction, predict

CATALOG = default_catalog()
KNOWN = CATALOG.names_to_weights()
I, H = 6, 10  # noqa: E741
GATE, UP, DOWN = (f"experts.*.{name}_proj.weight" for name in ("gate", "up", "down"))
GATE_UP = "experts.gate_up_proj"


def found(**shapes: tuple[int, ...]) -> Found:
    """Tensors by name below the module; `gate`, `up` and `down` are short for those of expert 0."""
    names = {"gate": GATE, "up": UP, "down": DOWN, "fused": GATE_UP}
    names |= {"scale": "experts.*.gate_proj.weight_scale_inv"}
    return {
        names[short]: (
            ExpertKey(names[short], KNOWN[names[short]]),
            TensorInfo(short, "F32" if short == "scale" else "BF16", shape, "", 0, 0),
        )
        for short, shape in shapes.items()
    }


def row(came: Found, layout: str) -> NamedLayout:
    key, _ = next(iter(came.values()))
    return next(match.row for match in key.matches if match.row.layout.name == layout)


def predicted(came: Found, layout: str, counts: Sequence[int]) -> list[Prediction]:
    return [*predict(came, row(came, layout), CATALOG.required_weight_pairs, counts)]


def test_the_rest_follows_from_two_projections_and_the_number_of_experts() -> None:
    """Names as those that came, shapes by the layout; complete when gate, up and down came."""
    (made,) = predicted(found(gate=(I, H)), "per-expert", [3])
    assert made.infos is not None
    assert {name: info.shape for name, info in made.infos.items()} == {
        f"experts.{k}.{name}_proj.weight": (H, I) if name == "down" else (I, H)
        for k in range(3)
        for name in ("gate", "up", "down")
    }
    assert {info.dtype for info in made.infos.values()} == {"BF16"}
    assert (made.is_complete, made.is_plain) == (False, True)
    (made,) = predicted(found(gate=(I, H), up=(I, H), down=(H, I)), "per-expert", [3])
    assert made.is_complete


def test_each_number_of_experts_is_a_prediction() -> None:
    made = predicted(found(gate=(I, H)), "per-expert", [3, 2])
    assert [len(each.infos or ()) for each in made] == [9, 6]


def test_without_a_number_nothing_is_predicted_yet() -> None:
    """Fused experts show how many they are; single ones never do."""
    (made,) = predicted(found(gate=(I, H)), "per-expert", [])
    assert made.infos is None
    (made,) = predicted(found(fused=(3, 2 * I, H)), "fused", [])
    assert made.infos is not None
    assert made.infos["experts.down_proj"].shape == (3, H, I)


def test_shapes_that_a_layout_cannot_have() -> None:
    """An odd number of rows is not gate and up; down is not as wide as gate is high."""
    assert predicted(found(fused=(3, 2 * I + 1, H)), "fused", [3]) == []
    assert predicted(found(gate=(I, H), down=(I, H)), "per-expert", [3]) == []


def test_scales_are_not_plain() -> None:
    """What a scale means depends on what else comes."""
    (made,) = predicted(found(gate=(256, 128), scale=(2, 1)), "per-expert", [2])
    assert not made.is_plain


def test_projections_that_are_not_alike() -> None:
    with pytest.raises(BadCheckpoint, match=r"tensor up is BF16 \[7, 10\], gate is BF16 \[6, 10\]"):
        predicted(found(gate=(I, H), up=(I + 1, H)), "per-expert", [3])


def test_names_of_another_layout() -> None:
    came = found(gate=(I, H), fused=(3, 2 * I, H))
    assert predicted(came, "per-expert", [3]) == []
