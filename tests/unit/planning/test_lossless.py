"""What would not come back, or would lose bytes, is refused."""

import re

import pytest
from header_models import OMNI, experts, omni, planned, steps_of

from streamconv.errors import PlanRefused


def test_a_form_renames_and_leaves_what_it_does_not_mention() -> None:
    """The thinker loses its prefix and is merged, the talker stays as it is."""
    found = {
        step.name: step.shape for step in steps_of(planned(omni(), "mindspeed", model_type=OMNI))
    }
    assert found == {
        "lm_head.weight": (3, 5),
        "talker.codec_head.weight": (3, 5),
        "code2wav.conv.weight": (3,),
        "model.layers.0.mlp.experts.gate_up_proj": (11, 5, 6),
        "model.layers.0.mlp.experts.down_proj": (11, 3, 5),
        **{n: shape for n, (_, shape) in experts("talker.model.layers.0.mlp.", 12, 2, 7).items()},
    }


@pytest.mark.parametrize(
    ("name", "fact"),
    [
        ("lm_head.weight", "two tensors would be called lm_head.weight"),
        ("lm_head.bias", "tensor lm_head.bias would be called"),
        ("thinker.talker.weight", "tensor thinker.talker.weight would be called"),
        ("thinker.thinker.weight", "tensor thinker.thinker.weight would be called"),
    ],
)
def test_names_that_would_not_come_back_are_refused(name: str, fact: str) -> None:
    """Two tensors of one name, and one that would get another name on the way back."""
    with pytest.raises(PlanRefused, match=re.escape(fact)):
        planned(omni(**{name: ("BF16", (2,))}), "mindspeed", declared_layout="hub", model_type=OMNI)
