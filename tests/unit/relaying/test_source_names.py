"""The form that names have is found out name by name, and never changes its mind silently."""

import pytest

from streamconv.catalog.catalog import default_catalog
from streamconv.checkpoint.types import TensorInfo
from streamconv.errors import BadCheckpoint, PlanRefused
from streamconv.relaying.source_names import SourceNames

HUB = "thinker.model.layers.0.self_attn.q_proj.weight"
IN_TRANSFORMERS = "thinker.model.language_model.layers.0.self_attn.q_proj.weight"
IN_BOTH = "talker.codec_head.weight"


def names_of(model_type: str, declared: str | None = None) -> SourceNames:
    family = default_catalog().find_family(model_type)
    assert family is not None
    return SourceNames(family, declared, {"model_type": model_type})


def info(name: str) -> TensorInfo:
    return TensorInfo(name, "F32", (2,), "", 0, 8)


def test_the_first_name_of_its_own_settles_the_form() -> None:
    names = names_of("qwen3_omni_moe")
    assert names.hub_name(info(IN_BOTH)) == IN_BOTH
    assert names.hub_name(info(IN_TRANSFORMERS)) == HUB
    assert [form.name for form in names.possible] == ["transformers"]


def test_a_name_of_another_form_is_refused_from_then_on() -> None:
    """Both facts are named: the name, and the one that settled the form."""
    names = names_of("qwen3_omni_moe")
    names.hub_name(info(IN_TRANSFORMERS))
    with pytest.raises(BadCheckpoint) as caught:
        names.hub_name(info(HUB))
    assert HUB in caught.value.message
    assert IN_TRANSFORMERS in caught.value.message
    assert "`source`" in caught.value.hint


def test_a_form_that_is_named_is_taken() -> None:
    names = names_of("qwen3_omni_moe", "transformers")
    with pytest.raises(BadCheckpoint):
        names.hub_name(info(HUB))
    assert names.hub_name(info(IN_TRANSFORMERS)) == HUB


def test_a_name_of_two_forms_is_not_guessed() -> None:
    with pytest.raises(PlanRefused) as caught:
        names_of("deepseek_v4").hub_name(info("model.layers.1.ffn_hc.scale"))
    assert "hub and transformers" in caught.value.message


def test_a_name_that_no_form_gives() -> None:
    names = names_of("qwen3_omni_moe", "mindspeed")
    with pytest.raises(BadCheckpoint, match="in the form 'mindspeed'"):
        names.hub_name(info(f"thinker.{HUB}"))
