"""The first and last lines: from what to what, how to load it, and the way back."""

import shutil
from pathlib import Path

import checkpoints
import pytest
from header_models import experts, model, planned

import streamconv
from streamconv.report.outcome import from_to, loading_line, next_steps, return_line
from streamconv.report.run_lines import opening_line

PREFIX = "model.layers.0.mlp."


def test_from_a_form_to_a_form() -> None:
    plan = planned(model(), "transformers")
    assert from_to(plan) == "qwen3_moe, hub -> transformers, fused"
    assert opening_line(plan).startswith("qwen3_moe, hub -> transformers, fused: ")
    assert loading_line(plan, "out") == (
        "load it with transformers: AutoModel.from_pretrained('out')"
    )
    assert return_line(plan, "my out") == "go back with `streamconv convert 'my out' DIR --to hub`"


def test_from_layouts_to_layouts() -> None:
    """An unknown family has no forms: the way back is `split`, or the layout."""
    plan = planned(experts(PREFIX, 3, 4, 6), "stacked", model_type="never_heard_of")
    assert from_to(plan) == "never_heard_of, per-expert -> stacked"
    assert loading_line(plan, "o") == "see if transformers loads it: `streamconv check o`"
    nameless = planned(experts(PREFIX, 3, 4, 6), "stacked", model_type="")
    assert loading_line(nameless, "o") == "add config.json, to find out what loads it"
    assert return_line(plan, "o") == "go back with `streamconv split o DIR`"
    back = planned(experts(PREFIX, 3, 4, 6, "stacked"), "per-expert", model_type="never_heard_of")
    assert from_to(back) == "never_heard_of, stacked -> per-expert"
    assert return_line(back, "o") == "go back with `streamconv convert o DIR --to stacked`"


def test_a_form_that_transformers_does_not_load() -> None:
    """MindSpeed's, and layouts that are those of no form."""
    for to, name in (("fused-flat", "these layouts"), ("stacked", "these layouts")):
        line = loading_line(planned(model(), to), "o")
        assert line == (
            f"transformers does not load {name}; `streamconv convert o DIR --to transformers` "
            "makes a checkpoint that it loads"
        )


def test_a_merge_for_mindspeed_says_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Also where transformers has no form of the family that could be named."""
    for build in (checkpoints.qwen3_omni_moe, checkpoints.glm4v_moe):
        plan = streamconv.plan(build(tmp_path_factory.mktemp("src") / "hub"))
        assert loading_line(plan, "o") == (
            "transformers does not load the form mindspeed; `streamconv convert o DIR --to "
            "transformers` makes a checkpoint that it loads"
        )
        assert "hub -> mindspeed, " in from_to(plan)
    plan = streamconv.plan(checkpoints.internvl_chat(tmp_path_factory.mktemp("src") / "hub"))
    assert loading_line(plan, "o") == "transformers does not load the form mindspeed"
    assert next_steps(plan, "o")[1] == "go back with `streamconv convert o DIR --to hub`"


def test_casts_and_formats(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What was cast has no way back; a DCP is loaded by torch."""
    src = checkpoints.qwen3_moe(tmp_path_factory.mktemp("src") / "hub")
    cast = streamconv.plan(src, dtype="fp16")
    assert from_to(cast) == "qwen3_moe, hub -> transformers, fused, cast to F16"
    assert return_line(cast, "o") == ""
    dcp = streamconv.plan(src, format="dcp")
    assert from_to(dcp).endswith(", as a DCP")
    assert "torch.distributed.checkpoint" in loading_line(dcp, "o")


def test_the_class_that_config_names(tmp_path_factory: pytest.TempPathFactory) -> None:
    src = checkpoints.qwen3_moe(tmp_path_factory.mktemp("src") / "hub")
    assert "AutoModelForCausalLM.from_pretrained('o')" in loading_line(streamconv.plan(src), "o")


def test_layers_that_do_not_load(tmp_path: Path) -> None:
    """Loaders count layers from 0, so that no other ones are said to load."""
    src = checkpoints.qwen3_moe(tmp_path / "hub", layers=3)
    assert "from_pretrained" in loading_line(streamconv.plan(src, layers="0:2"), "o")
    later = streamconv.plan(src, layers="1:3")
    assert loading_line(later, "o") == "look at it with `streamconv inspect o`"


def test_nothing_to_undo(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Other shards, or no experts: the hub's form, and no way back."""
    src = checkpoints.qwen3_moe(tmp_path_factory.mktemp("src") / "hub")
    plan = streamconv.plan(src, to="same", copy=True)
    (line,) = next_steps(plan, "o")
    assert line.startswith("load it with what loads the published checkpoint")
    dense = streamconv.plan(
        checkpoints.qwen3(tmp_path_factory.mktemp("d") / "hub"), to="same", copy=True
    )
    assert "no experts" in from_to(dense)


def test_names_that_are_not_the_familys() -> None:
    """No table says if transformers loads the result is not known, even in its own layouts."""
    odd = {"model.layers.1.mlp.gate.bias": ("BF16", (12,))}
    for to in ("transformers", "fused", "hub"):
        line = loading_line(planned({**model(), **odd}, to), "my out")
        assert line == "see if transformers loads it: `streamconv check 'my out'`"


def test_a_result_of_a_dcp_without_a_config(tmp_path: Path) -> None:
    """Its model type is in the DCP alone, so config.json has to be added first."""
    hub, dcp = checkpoints.qwen3_moe(tmp_path / "hub"), tmp_path / "dcp"
    streamconv.convert(hub, dcp, format="dcp")
    add = "add config.json to o: a DCP has none, and nothing loads it without"
    assert next_steps(streamconv.plan(dcp), "o")[0] == add
    assert add not in next_steps(streamconv.plan(dcp, template=hub), "o")
    assert add not in next_steps(streamconv.plan(dcp, format="dcp"), "o")
    shutil.copy(hub / "config.json", dcp)
    assert add not in next_steps(streamconv.plan(dcp), "o")
