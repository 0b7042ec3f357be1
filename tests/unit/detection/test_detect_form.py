"""The form of a checkpoint's names: by its record, by the user, or by the names themselves."""

from dataclasses import replace
from pathlib import Path

import pytest
from folders import qwen_tensors, write_checkpoint
from header_models import Tensors, checkpoint_of

import streamconv
from streamconv.catalog.catalog import default_catalog
from streamconv.catalog.families import Family
from streamconv.checkpoint.layout_record import Record
from streamconv.checkpoint.types import Checkpoint
from streamconv.detection.detect_form import count_own_names, find_names, undo_renames
from streamconv.errors import BadCheckpoint, PlanRefused
from streamconv.report.outcome import next_steps

TYPE = "qwen3_omni_moe"
HUB = "thinker.model.layers.0.self_attn.q_proj.weight"
HELD = "thinker.model.language_model.layers.0.self_attn.q_proj.weight"
IN_BOTH = "talker.codec_head.weight"


def family() -> Family:
    found = default_catalog().find_family(TYPE)
    assert found is not None
    return found


def checkpoint(*names: str, record: str | None = None) -> Checkpoint:
    made = checkpoint_of(dict.fromkeys(names, ("BF16", (2,))), TYPE)
    return replace(made, record=Record(record, None, {}) if record else None)


def found(*names: str, declared: str | None = None, record: str | None = None) -> str:
    return find_names(checkpoint(*names, record=record), family(), declared).name


def test_names_that_only_one_form_gives_decide() -> None:
    assert found(HELD, IN_BOTH) == "transformers"
    assert found(HUB, IN_BOTH) == "hub"
    assert found(IN_BOTH) == "hub"


def test_the_record_decides_before_the_user_and_the_names() -> None:
    assert found(HELD, record="hub", declared="transformers") == "hub"
    with pytest.raises(BadCheckpoint, match=r"form elsewhere, and .* has no such form"):
        found(HELD, record="elsewhere")
    without = replace(checkpoint(HELD, record="transformers"), config={})
    with pytest.raises(BadCheckpoint) as caught:
        find_names(without, None, None)
    assert caught.value.hint == "add the config.json of the model, which names its model type"


def test_the_user_decides_before_the_names() -> None:
    """A layout says nothing of names."""
    assert found(HUB, declared="transformers") == "transformers"
    assert found(HELD, declared="fused") == "transformers"
    with pytest.raises(PlanRefused, match="has no form 'mindspeed', only hub, transformers"):
        find_names(
            checkpoint_of({}, "qwen2_moe"), default_catalog().find_family("qwen2_moe"), "mindspeed"
        )
    with pytest.raises(PlanRefused, match="has no form 'transformers', no forms"):
        find_names(checkpoint_of({}, "unknown"), None, "transformers")


def test_a_name_that_a_form_never_gives_rules_it_out() -> None:
    forms = family().forms
    assert count_own_names(forms["transformers"], [HELD, IN_BOTH]) == 1
    assert count_own_names(forms["transformers"], [HELD, HUB]) == -1
    assert count_own_names(forms["hub"], [HELD, HUB]) == 0


def test_hub_names() -> None:
    held = family().forms["transformers"]
    assert list(undo_renames(held, family(), checkpoint(HELD, IN_BOTH))) == [HUB, IN_BOTH]
    with pytest.raises(BadCheckpoint, match=r"and that is .* in the form 'transformers'"):
        undo_renames(held, family(), checkpoint(HUB))


def test_an_alias_is_another_name_of_the_same_tensor() -> None:
    """DeepSeek-V4's norm, as transformers saves it; both names at once are refused."""
    deepseek = default_catalog().find_family("deepseek_v4")
    assert deepseek is not None
    alias, name = (f"model.layers.0.attn.{norm}.weight" for norm in ("norm", "kv_norm"))
    tensors: Tensors = {alias: ("BF16", (2,))}
    hub = deepseek.forms["hub"]
    assert list(undo_renames(hub, deepseek, checkpoint_of(tensors, "deepseek_v4"))) == [name]
    tensors[name] = tensors[alias]
    with pytest.raises(BadCheckpoint, match="are two names of one tensor"):
        undo_renames(hub, deepseek, checkpoint_of(tensors, "deepseek_v4"))


LOST = ".1.up_proj"


@pytest.mark.parametrize(
    ("prefix", "form"), [("mtp.", "hub"), ("foo.", None)], ids=["its own", "nobody's"]
)
def test_experts_that_are_left_belong_to_the_form(
    prefix: str, form: str | None, tmp_path: Path
) -> None:
    """Those of another prefix are not the family's; those that stay are of no other form."""
    broken = qwen_tensors(prefix=prefix, layers=1)
    broken = {name: each for name, each in broken.items() if LOST not in name}
    tensors = {**qwen_tensors(), **broken}
    config = {"model_type": "qwen3_moe", "num_experts": 3}
    source = write_checkpoint(tmp_path / "src", {"model.safetensors": tensors}, config, False)
    plan = streamconv.plan(source, pass_through=True)
    assert list(plan.source.refusals) == [f"{prefix}layers.*.mlp."]
    assert plan.source.form == form
    assert plan.target.form is None
    assert not any("from_pretrained" in step for step in next_steps(plan, "dst"))
    same = streamconv.plan(source, to="same", pass_through=True)
    assert same.target.form == form


def test_without_what_may_be_absent_it_is_still_the_form(tmp_path: Path) -> None:
    """A text model of a family whose form renames a vision tower and groups its attention."""
    tensors = qwen_tensors(prefix="language_model.model.")
    config = {"model_type": "kimi_k25", "text_config": {"num_experts": 3}}
    source = write_checkpoint(tmp_path / "src", {"model.safetensors": tensors}, config, False)
    plan = streamconv.plan(source)
    assert (plan.source.form, plan.target.form) == ("hub", "transformers")
