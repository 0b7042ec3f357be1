"""What a weight of a module becomes in another layout, and how many tensors at most."""

import pytest
from header_models import experts, planned

from streamconv.errors import PlanRefused
from streamconv.planning import stack_outputs

MLP = "model.layers.0.mlp."


def test_a_header_that_tells_of_billions_of_experts_is_refused() -> None:
    """Listing them would take all memory, though its file may be sparse or a hub may lie."""
    with pytest.raises(PlanRefused, match="it would become 2,000,000,000 tensors, and no more"):
        planned(experts(MLP, 10**9, 2, 1, "fused"), "per-expert")


def test_as_many_tensors_as_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack_outputs, "MAX_TENSORS", 8)
    assert len(planned(experts(MLP, 4, 2, 1, "fused"), "per-expert").steps) == 12
    with pytest.raises(PlanRefused, match=r"cannot split .*gate_up_proj: it would become 10"):
        planned(experts(MLP, 5, 2, 1, "fused"), "per-expert")
