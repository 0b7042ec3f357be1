"""What answers which of several layouts that fit some experts is theirs, and in which order."""

from dataclasses import replace
from typing import Any

import pytest
from header_models import Tensors, checkpoint_of, experts

from streamconv.catalog.catalog import default_catalog
from streamconv.checkpoint.layout_record import LayoutNames, Record
from streamconv.checkpoint.types import Checkpoint
from streamconv.detection.detect import detect
from streamconv.errors import BadCheckpoint, PlanRefused

PREFIX = "model.layers.0.mlp."
PATTERN = "model.layers.*.mlp."
SQUARE: Tensors = experts(PREFIX, 3, 4, 4, "fused-transposed")
"""Experts that are `fused-transposed` or `fused-interleaved`, as far as shapes tell."""


def with_record(layout: str, tensors: Tensors = SQUARE, naming: str = "gate-up-down") -> Checkpoint:
    naming = next(iter(default_catalog().namings)) if naming == "gate-up-down" else naming
    record = Record("hub", None, {PATTERN: LayoutNames(layout, naming)})
    return replace(checkpoint_of(tensors, "a_model_of_tomorrow"), record=record)


def layout_of(checkpoint: Checkpoint, declared: str | None = None) -> str:
    (stack,) = detect(checkpoint, default_catalog(), declared).stacks
    return stack.row.layout.name


@pytest.mark.parametrize("layout", ["fused-transposed", "fused-interleaved"])
def test_the_record_comes_first(layout: str) -> None:
    """It is believed over names, and `--from` may only agree."""
    assert layout_of(with_record(layout)) == layout
    assert layout_of(with_record(layout), layout) == layout
    other = {"fused-transposed", "fused-interleaved"} - {layout}
    with pytest.raises(PlanRefused, match=f"is {layout}, --from says {other.copy().pop()}"):
        layout_of(with_record(layout), other.pop())


def test_a_record_that_the_shapes_contradict() -> None:
    with pytest.raises(BadCheckpoint, match="is stacked by its record, its shapes fit"):
        layout_of(with_record("stacked"))


@pytest.mark.parametrize(("layout", "naming"), [("fusd", "gate-up-down"), ("fused", "x1-x2")])
def test_a_record_of_an_unknown_layout(layout: str, naming: str) -> None:
    with pytest.raises(BadCheckpoint, match=r"names (fusd|x1-x2), which is not known"):
        layout_of(with_record(layout, naming=naming))


def test_then_names_and_shapes() -> None:
    """If one layout fits them. `--from` may not name another one."""
    checkpoint = checkpoint_of(experts(PREFIX, 3, 4, 6), "a_model_of_tomorrow")
    assert layout_of(checkpoint) == "per-expert"
    with pytest.raises(PlanRefused, match="is per-expert, --from says stacked") as caught:
        layout_of(checkpoint, "stacked")
    assert caught.value.hint == "leave out --from"


@pytest.mark.parametrize("layout", ["fused-transposed", "fused-interleaved"])
def test_then_what_the_user_says(layout: str) -> None:
    assert layout_of(checkpoint_of(SQUARE, "a_model_of_tomorrow"), layout) == layout


@pytest.mark.parametrize(
    ("config", "layout"),
    [
        ({"text_config": {"model_type": "gpt_oss"}}, "fused-interleaved"),
        ({"text_config": {"model_type": "llama4_text"}}, "fused-transposed"),
    ],
)
def test_then_the_language_model(config: dict[str, Any], layout: str) -> None:
    checkpoint = checkpoint_of(SQUARE, "a_model_of_tomorrow")
    checkpoint = replace(checkpoint, config={**checkpoint.config, **config})
    assert layout_of(checkpoint) == layout


def test_else_nothing_is_guessed() -> None:
    """The error has both, and the hint names each with its users."""
    with pytest.raises(PlanRefused, match=r"fits .* alike") as caught:
        layout_of(checkpoint_of(SQUARE, "a_model_of_tomorrow"))
    for layout in ("fused-transposed", "fused-interleaved"):
        assert layout in caught.value.message
        assert f"--from {layout} (" in caught.value.hint
