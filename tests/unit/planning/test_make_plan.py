"""Plans are made from headers alone."""

import builtins
import io
import os
from pathlib import Path
from typing import Any, NoReturn

import pytest
from header_models import check_pieces, model, names_of, planned, steps_of

from streamconv.errors import PlanRefused


def test_a_checkpoint_without_experts_is_copied() -> None:
    """Every tensor, each in pieces like any other."""
    plan = planned(model(layers=0))
    check_pieces(plan)
    assert names_of(plan) == model(layers=0).keys()
    assert all(step.is_copy for step in steps_of(plan))


def test_a_checkpoint_without_tensors_is_refused() -> None:
    with pytest.raises(PlanRefused, match=r"^cannot convert /nowhere.*: it holds no tensors$"):
        planned({})


def test_a_plan_reads_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor looks at one; the tables of layouts have been loaded by then."""
    planned(model())

    def touched(*what: Any, **_: Any) -> NoReturn:
        raise AssertionError(f"{what} was opened for a plan")

    for place, name in (
        (builtins, "open"),
        (io, "open"),
        (os, "open"),
        (os, "stat"),
        (os, "listdir"),
        (os, "scandir"),
        (Path, "open"),
        (Path, "stat"),
    ):
        monkeypatch.setattr(place, name, touched)
    plan = planned(model(layers=3), "fused-transposed", max_shard_bytes=1000)
    pieces = list(plan.pieces())
    headers = [b"".join(plan.format.framing_bytes(shard, 0)) for shard in plan.shards]
    monkeypatch.undo()
    assert len(headers) > 1
    assert len(pieces) >= len(headers)
