"""Every family of the table, compared with transformers: names, shapes and bytes.

transformers builds a small random model and saves it twice: as the hub has it, and as it holds it
in memory (`save_original_format=False`). A conversion has to lead from each to the other, key for
key and byte for byte.
"""

import json
import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import reference
import torch
from click.testing import CliRunner
from family_models import (
    CONFIGS,
    EXPERTS,
    assert_loads,
    build,
    fused,
    model_types,
    save_as_published,
)
from folders import forget
from safetensors.torch import save_file
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import streamconv
from streamconv.catalog.catalog import default_catalog
from streamconv.cli import cli
from streamconv.errors import PlanRefused, UsageError

CATALOG = default_catalog()


@pytest.fixture(scope="module", params=model_types())
def model_type(request: pytest.FixtureRequest) -> str:
    return str(request.param)


Saved = tuple[Path, Path]


@pytest.fixture(scope="module")
def saved(model_type: str, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """The model as on the hub, and as in memory."""
    folder = tmp_path_factory.mktemp(model_type)
    family = CATALOG.find_family(model_type)
    assert family is not None
    assert not family.transformers_model_type or model_type not in CONFIG_MAPPING
    model = build(family.transformers_model_type or model_type)
    model.save_pretrained(folder / "memory", save_original_format=False)
    save_as_published(model, folder / "hub")
    for path in folder.glob("*/config.json") if family.transformers_model_type else ():
        path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": model_type}))
    return folder / "hub", folder / "memory"


def test_the_form_transformers_is_what_it_holds_in_memory(saved: Saved, tmp_path: Path) -> None:
    hub, memory = saved
    streamconv.convert(hub, tmp_path / "out", to="transformers", max_shard_size="40KB", copy=True)
    out = reference.read(tmp_path / "out")
    assert reference.same_bytes(reference.read(memory), out) == []
    found = streamconv.inspect(hub).detected
    assert found.stacks
    assert (found.form, found.unknown_names) == ("hub", ())


@pytest.mark.parametrize("form", ["transformers", "hub"])
def test_opened_in_a_form(saved: Saved, form: str) -> None:
    """Without a conversion, tensor by tensor and in slices, each form is seen from the other."""
    source, expected = saved if form == "transformers" else reversed(saved)
    wanted = reference.read(expected)
    numbers = random.Random(form)
    boxes = {
        name: tuple(slice(*sorted(numbers.sample(range(n + 1), 2))) for n in tensor.shape)
        for name, tensor in wanted.items()
    }
    with streamconv.open(source, to=form) as lazy:
        assert reference.same_bytes(wanted, dict(lazy.stream())) == []
        slices = {name: lazy[name][box] for name, box in boxes.items() if box}
        cut = {name: wanted[name][boxes[name]].clone() for name in slices}
        assert reference.same_bytes(cut, slices) == []


@pytest.mark.parametrize("form", ["transformers", "hub"])
def test_relayed_to_a_form(saved: Saved, model_type: str, form: str) -> None:
    """Tensor by tensor, as a trainer emits them: layer by layer, and in any order within one.

    The form of the source is named one way, and the other way for every other model type.
    """
    is_named = (form == "hub") == (model_types().index(model_type) % 2 == 0)
    source, expected = saved if form == "transformers" else reversed(saved)
    emitted = reference.by_layer(reference.read(source), random.Random(f"{form} {is_named}"))
    config = json.loads((source / "config.json").read_text())
    named = None
    if is_named or model_type in NAMES_OF_TWO_FORMS:
        named = "hub" if form == "transformers" else "transformers"
    relayed = streamconv.relay(emitted, source=named, to=form, config=config, views=is_named)
    assert reference.same_bytes(reference.read(expected), dict(relayed)) == []
    assert relayed.held_bytes == 0


NAMES_OF_TWO_FORMS = {"deepseek_v4"}
"""Model types with a name that is one tensor's in one form and another's in another."""


def test_from_memory_to_the_hub(saved: Saved, tmp_path: Path) -> None:
    hub, memory = saved
    streamconv.convert(memory, tmp_path / "out", to="hub", copy=True)
    assert reference.same_bytes(reference.read(hub), reference.read(tmp_path / "out")) == []


@pytest.mark.parametrize(
    "name", [name for name, family in CATALOG.families.items() if fused(family)]
)
def test_every_layout_and_back(name: str, tmp_path: Path) -> None:
    """What the hub has fused becomes each layout and comes back, or is refused with a reason;
    without its record it comes back as well, or is refused: never as other bytes."""
    hub = tmp_path / "hub"
    save_as_published(build(CATALOG.families[name].model_types[0]), hub)
    original = reference.read(hub)
    refused = []
    for layout in CATALOG.layouts:
        out, back, guess = (tmp_path / f"{layout}{end}" for end in ("", "-back", "-guess"))
        try:
            streamconv.convert(hub, out, to=layout, copy=True)
        except streamconv.PlanRefused as refusal:
            assert "could not be distinguished" in refusal.message
            refused.append(layout)
            continue
        streamconv.convert(out, back, to="hub", copy=True)
        assert reference.same_bytes(original, reference.read(back)) == [], layout
        forget(out)
        try:
            streamconv.convert(out, guess, to="hub", copy=True)
        except streamconv.PlanRefused as refusal:
            assert "--from" in refusal.hint
            streamconv.convert(out, guess, to="hub", source_layout=layout, copy=True)
        assert reference.same_bytes(original, reference.read(guess)) == [], layout
    assert len(refused) <= 1


@pytest.mark.parametrize(
    "name",
    [
        "qwen3_moe",
        "mixtral",
        "minimax_m2",
        "glm4_moe",
        "granitemoe",
        "gpt_oss",
        "llama4_text",
        "nemotron_h",
        "bailing_hybrid",
        "sarvam_moe",
        "step3p7",
        "kimi_k25",
    ],
)
def test_the_same_logits_from_every_layout_that_transformers_loads(
    name: str, tmp_path: Path
) -> None:
    """Loaded from either form, with nothing missing or left over, a model says the same."""
    model = build(name)
    save_as_published(model, tmp_path / "hub")
    model.save_pretrained(tmp_path / "memory", save_original_format=False)
    streamconv.convert(tmp_path / "hub", tmp_path / "to-transformers", to="transformers", copy=True)
    streamconv.convert(tmp_path / "memory", tmp_path / "to-hub", to="hub", copy=True)
    tokens = torch.arange(3, 15).unsqueeze(0)
    logits = []
    for folder in ("hub", "to-transformers", "to-hub"):
        loaded, info = type(model).from_pretrained(
            tmp_path / folder,
            dtype="auto",
            experts_implementation="eager",
            output_loading_info=True,
        )
        assert not any(info.values()), info
        with torch.no_grad():
            logits.append(loaded.eval()(tokens).logits)
    assert logits[0].isfinite().all()
    assert all(logits[0].equal(other) for other in logits[1:])


LACKING = {
    "Dots3NoteTextModel": "a class inside dots3_note, which has a row",
    "dots3_note_vision_encoder": "a part of dots3_note: of another number of experts each layer",
    "UnlimitedOcrTextModel": "a class inside unlimited_ocr, which has a row",
    "mistral_large4_text": "a part of mistral_large4, which has a row",
    "inkling2_text": "a part of inkling2, which has a row",
    "inkling2_loop_text": "a part of inkling2_loop, which has a row",
    "qwen3_omni_moe_text": "never published alone: a part of qwen3_omni_moe",
    "qwen3_omni_moe_thinker": "never published alone: a part of qwen3_omni_moe",
    "qwen4_exp_text": "a part of qwen4_exp, which has a row",
}
"""Model types whose experts transformers re-lays and that are in no row here, and why."""

OURS_ALONE = {
    "inkling2": "transformers maps its text model, inkling2_text",
    "inkling2_loop": "transformers maps its text model, inkling2_loop_text",
    "qwen4_exp": "transformers maps its text model, qwen4_exp_text",
    "dots3_note": "transformers maps its text model, Dots3NoteTextModel, and its vision tower",
    "mistral_large4": "transformers maps its text model, mistral_large4_text",
    "unlimited_ocr": "transformers maps its text model, UnlimitedOcrTextModel",
    "aria": "transformers maps its text model, aria_text, and llava around it",
    "qwen3_5_moe": "transformers maps its text model, qwen3_5_moe_text; the hub has it fused",
    "dbrx": "transformers holds what the hub has",
    "gpt_oss": "transformers holds what the hub has",
    "granitemoe_swa": "transformers holds what the hub has",
    "jetmoe": "transformers holds what the hub has",
    "llama4": "transformers holds what the hub has",
    "llama4_text": "transformers holds what the hub has",
    "internvl_chat": "code that its repositories ship, not transformers' own",
    "kimi_k2": "transformers holds it in the class of deepseek_v3",
    "deepseek_vl_v2": "as published; transformers knows one of its models, as deepseek_ocr2",
    "ernie4_5_moe_vl": "as published; transformers knows it as ernie4_5_vl_moe",
    "NemotronH_Nano_Omni_Reasoning_V3": "as published; transformers knows it as nemotron_h_omni",
    "nemotron_h_omni": "transformers maps its text model, nemotron_h",
    "internvl": "transformers maps llava around its text model",
    "mistral3": "transformers maps llava around its text model",
    "mistral4": "transformers holds what the hub has",
    "gemma4": "transformers holds what the hub has",
    "gemma4_text": "transformers holds what the hub has",
    "step3p5": "transformers maps step3p7, of which it is the text model",
    "glm4v_moe_text": "transformers maps glm4v_moe, of which it is the text model",
    "qwen3_vl_moe_text": "transformers maps qwen3_vl_moe, of which it is the text model",
    "smallthinker": "code that its repositories ship, not transformers' own",
    "bailing_moe": "code that its repositories ship, not transformers' own",
    "bailing_moe_v2": "code that its repositories ship, not transformers' own",
    "hunyuan_image_3_moe": "code that its repositories ship, not transformers' own",
}
"""Model types in a row here whose experts transformers does not map, and why."""


def _remade_by_transformers() -> set[str]:
    """The model types and classes for which transformers' mapping makes tensors of experts."""
    from transformers.conversion_mapping import _build_checkpoint_conversion_mapping

    return {
        name
        for name, transforms in _build_checkpoint_conversion_mapping().items()
        if any("experts" in to for one in transforms for to in one._original_target_patterns)
    }


def test_the_table_against_that_of_transformers() -> None:
    """What either has and the other lacks is named above: a new release shows what is missing."""
    theirs = _remade_by_transformers()
    ours = {model_type for family in CATALOG.families.values() for model_type in family.model_types}
    assert theirs - ours == {*LACKING}
    assert ours - theirs == {*OURS_ALONE}
    for model_type in theirs & ours:
        family = CATALOG.find_family(model_type)
        assert family is not None
        assert "transformers" in {*family.forms, *family.without} or family.refused


def test_experts_of_two_kinds_are_refused_by_name(tmp_path: Path) -> None:
    """Experts of two kinds in one list: refused with the reason, or passed through whole."""
    source = tmp_path / "source"
    source.mkdir()
    tensors = {
        f"model.layers.0.mlp.experts.{k}.{name}_proj.weight": torch.randn(size, 4)
        for k, size in ((0, 6), (1, 3))
        for name in ("gate", "up", "down")
    }
    save_file(tensors, source / "model.safetensors")
    (source / "config.json").write_text('{"model_type": "ernie4_5_vl_moe"}')
    with pytest.raises(streamconv.PlanRefused, match="one list of experts") as caught:
        streamconv.merge(source, tmp_path / "out")
    assert "--pass-through" in caught.value.hint
    streamconv.merge(source, tmp_path / "out", pass_through=True)
    assert reference.same_bytes(tensors, reference.read(tmp_path / "out")) == []


def test_a_pyramid_of_experts_is_refused_by_name(tmp_path: Path) -> None:
    """More of them from layer to layer of a vision tower: the reason, or passed through whole."""
    hub = tmp_path / "hub"
    build("dots3_note").save_pretrained(hub)
    tensors = reference.read(hub)
    for layer, count in ((1, 3), (2, 5)):
        first = re.compile(rf"vision_encoder\.blocks\.{layer}\.mlp\.experts\.\d+\.fc1\.weight")
        assert sum(bool(first.fullmatch(name)) for name in tensors) == count
    with pytest.raises(streamconv.PlanRefused, match="another number of experts in each layer"):
        streamconv.merge(hub, tmp_path / "out")
    streamconv.merge(hub, tmp_path / "out", pass_through=True)
    assert reference.same_bytes(tensors, reference.read(tmp_path / "out")) == []


def test_scales_of_step_3_7_go_with_their_weights(tmp_path: Path) -> None:
    """FP8 in blocks, under names of the hub's own: fused as asked, and back."""
    source, prefix = tmp_path / "source", "model.layers.1.moe."
    source.mkdir()
    tensors = {f"{prefix}router_bias": torch.randn(EXPERTS)}
    for name, shape in (("gate", (256, 128)), ("up", (256, 128)), ("down", (128, 256))):
        blocks = [n // 128 for n in shape]
        weight = torch.randint(1, 120, (EXPERTS, *shape), dtype=torch.uint8)
        tensors[f"{prefix}{name}_proj.weight"] = weight.view(torch.float8_e4m3fn)
        tensors[f"{prefix}{name}_proj.weight_scale_inv"] = torch.rand(EXPERTS, *blocks)
    save_file(tensors, source / "model.safetensors")
    quantized = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    config = {"model_type": "step3p7", "quantization_config": quantized}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(PlanRefused, match="finds no scales of merged ones"):
        streamconv.merge(source, tmp_path / "out")
    streamconv.merge(source, tmp_path / "out", to="fused", verify=True)
    out = reference.read(tmp_path / "out")
    for end, made in ((".weight", ""), (".weight_scale_inv", "_scale_inv")):
        gate, up = (tensors[f"{prefix}{n}_proj{end}"].view(torch.uint8) for n in ("gate", "up"))
        found = out.pop(f"{prefix}experts.gate_up_proj{made}").view(torch.uint8)
        assert found.equal(torch.cat([gate, up], 1))
    kept = {name: tensors[name] for name in out}
    assert {*kept} == {f"{prefix}{n}" for n in ("down_proj.weight", "router_bias")} | {
        f"{prefix}down_proj.weight_scale_inv"
    }
    assert reference.same_bytes(kept, out) == []
    streamconv.convert(tmp_path / "out", tmp_path / "back", to="hub", verify=True)
    assert reference.same_bytes(tensors, reference.read(tmp_path / "back")) == []


def test_scales_of_inkling_2_go_with_their_weights(tmp_path: Path) -> None:
    """MXFP8, a scale for 32 elements of a row: apart from each other as the rows are, and back."""
    source = tmp_path / "source"
    source.mkdir()
    prefix = "model.llm.layers.0.mlp.experts."
    tensors = {
        f"{prefix}{name}": torch.randint(1, 120, shape, dtype=torch.uint8)
        for name, shape in (
            ("w13_weight", (EXPERTS, 40, 64)),
            ("w13_weight_scale", (EXPERTS, 40, 2)),
            ("w2_weight", (EXPERTS, 64, 20)),
            ("w2_weight_scale", (EXPERTS, 64, 1)),
        )
    }
    for name in (f"{prefix}w13_weight", f"{prefix}w2_weight"):
        tensors[name] = tensors[name].view(torch.float8_e4m3fn)
    save_file(tensors, source / "model.safetensors")
    (source / "config.json").write_text('{"model_type": "inkling2"}')
    streamconv.merge(source, tmp_path / "out", to="fused")
    out = reference.read(tmp_path / "out")
    for name in ("", "_scale"):
        rows = tensors[f"{prefix}w13_weight{name}"].view(torch.uint8)
        fused = torch.cat([rows[:, 0::2], rows[:, 1::2]], 1)
        assert out[f"{prefix}gate_up_proj{name}"].view(torch.uint8).equal(fused)
    streamconv.convert(tmp_path / "out", tmp_path / "back", to="hub")
    assert reference.same_bytes(tensors, reference.read(tmp_path / "back")) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("layouts = 3", "cannot read layouts of"),
        ("[families]\nx = 3", "cannot read families.x of"),
        ("nonsense", "cannot read the tables of"),
        ("[families.x]\nmodel_types = ['x']", "cannot read families.x.stacks of"),
        ("[families.x]\nmodel_types = ['x']\nstacks = 3", "it has to be a table"),
        ("[layouts.x]\ngate_up = 'a : b'", "cannot read layouts.x.down of"),
        ("[layouts.x]\ngate_up = 'no template'\ndown = 'a : b'", "not a tensor template"),
        ("[namings.x]\np = ['a']", "cannot read namings.x.d of"),
        (
            "[families.x]\nmodel_types = ['x']\nmerge = 'hub'\nstacks = {'m.*.' = ''}\n"
            "hub.layouts = {'*' = 'fused'}\nhub.renames = [{hub_name = '*.a', form_name = 'b'}]",
            "could not be undone",
        ),
        (
            "[families.x]\nmodel_types = ['x']\nmerge = 'hub'\nstacks = {'m.*.' = ''}\n"
            "hub.layouts = {'*' = 'fuzed'}",
            "no layout called 'fuzed'",
        ),
    ],
)
def test_a_bad_file_of_families_is_refused(text: str, said: str, tmp_path: Path) -> None:
    """The same checks as for the table."""
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(UsageError, match=re.escape(said)):
        streamconv.merge(tmp_path, tmp_path / "out", family=tmp_path / "mine.toml")


@pytest.mark.parametrize(
    ("verb", "table"), [("families", CATALOG.families), ("layouts", CATALOG.layouts)]
)
def test_the_tables_are_shown(verb: str, table: Mapping[str, Any]) -> None:
    """As a table and as JSON, every row."""
    shown = CliRunner().invoke(cli, [verb])
    assert shown.exit_code == 0
    fields = json.loads(CliRunner().invoke(cli, [verb, "--json"]).stdout)
    kinds = {"families": "family", "layouts": "layout"}
    assert [row[kinds[verb]] for row in fields[verb]] == list(table)
    assert "gpt_oss" in shown.output if verb == "families" else "e h (i p)" in shown.output


def test_layers_of_different_kinds_in_one_checkpoint(tmp_path: Path) -> None:
    """Qwen3.5: the main layers fused, those of MTP one tensor an expert; nothing else moves."""
    hub = tmp_path / "hub"
    save_as_published(build("qwen3_5_moe"), hub)
    tensors = reference.read(hub)
    for name, shape in (("gate", (20, 32)), ("up", (20, 32)), ("down", (32, 20))):
        for number in range(EXPERTS):
            key = f"mtp.layers.0.mlp.experts.{number}.{name}_proj.weight"
            tensors[key] = torch.randn(shape).to(torch.bfloat16)
    tensors["mtp.fc.weight"] = torch.randn(3, 3)
    save_file(tensors, hub / "model.safetensors")
    streamconv.split(hub, tmp_path / "split")
    assert not any(name.endswith("gate_up_proj") for name in reference.read(tmp_path / "split"))
    for middle in ("split", "hub"):
        streamconv.convert(tmp_path / middle, tmp_path / f"{middle}-back", to="hub", copy=True)
        back = reference.read(tmp_path / f"{middle}-back")
        assert reference.same_bytes(tensors, back) == []
    streamconv.convert(tmp_path / "split", tmp_path / "memory", to="transformers")
    memory = reference.read(tmp_path / "memory")
    main = {name: tensor for name, tensor in tensors.items() if not name.startswith("mtp.")}
    kept = {name: tensor for name, tensor in memory.items() if not name.startswith("mtp.")}
    assert reference.same_bytes(main, kept) == []


@pytest.mark.parametrize(
    "name",
    [t for f in CATALOG.families.values() if "transformers" in f.without for t in f.model_types],
)
def test_experts_of_families_that_have_no_row_for_the_rest(name: str, tmp_path: Path) -> None:
    """Their experts fused are what transformers holds, whatever it makes of other names."""
    model = build(name)
    hub, memory = tmp_path / "hub", tmp_path / "memory"
    save_as_published(model, hub)
    model.save_pretrained(memory, save_original_format=False)
    streamconv.merge(hub, tmp_path / "out", verify=True)

    def experts(folder: Path) -> reference.Tensors:
        # What the hub calls a down projection that fusing leaves as it is: inkling2.
        down = re.compile(r"\.experts\.w2_weight$")
        parts = (
            (down.sub(".experts.down_proj", key).split("."), tensor)
            for key, tensor in reference.read(folder).items()
        )
        held = {".".join(p[-2:]) + next(filter(str.isdigit, p), ""): t for p, t in parts}
        return {key: tensor for key, tensor in held.items() if key.startswith("experts.")}

    assert experts(memory)
    assert reference.same_bytes(experts(memory), experts(tmp_path / "out")) == []
    streamconv.convert(tmp_path / "out", tmp_path / "back", to="hub")
    assert reference.same_bytes(reference.read(hub), reference.read(tmp_path / "back")) == []
    with pytest.raises(streamconv.PlanRefused, match="has no form 'transformers' here") as caught:
        streamconv.convert(hub, tmp_path / "no", to="transformers")
    family = CATALOG.find_family(name)
    assert family is not None
    assert family.without["transformers"] in caught.value.message


def test_zero_experts_are_what_transformers_itself_does_not_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As published, without weights for them: the reason that the table gives."""
    monkeypatch.setitem(CONFIGS["longcat_flash"], "zero_expert_num", 3)
    hub = tmp_path / "hub"
    build("longcat_flash").save_pretrained(hub)
    of_zero = re.compile(r"\.experts\.1[1-3]\.")
    tensors = {n: t for n, t in reference.read(hub).items() if not of_zero.search(n)}
    save_file(tensors, hub / "model.safetensors", {"format": "pt"})
    ((key, here, there),) = streamconv.check(hub).mismatched
    assert key.endswith("experts.gate_up_proj")
    assert (here[0], there[0]) == (EXPERTS, EXPERTS + 3)
    streamconv.merge(hub, tmp_path / "out", verify=True)


def test_deepseek_v4_under_the_names_of_its_hub(tmp_path: Path) -> None:
    """At the root, with a layer for MTP: transformers loads its form, and all of it comes back."""
    model = build("deepseek_v4")
    hub = tmp_path / "hub"
    save_as_published(model, hub)
    tensors: reference.Tensors = {}
    for name, tensor in reference.read(hub).items():
        root = name.removeprefix("model.").replace("hc_head.hc_", "hc_head_")
        tensors[root.replace("embed_tokens.", "embed.")] = tensor
        if root.startswith("layers.2."):
            tensors[root.replace("layers.2.", "mtp.0.")] = tensor.clone()
    assert {"embed.weight", "head.weight", "norm.weight", "hc_head_fn"} <= {*tensors}
    for name, shape in (("e_proj.weight", (32, 32)), ("enorm.weight", (32,)), ("hc_head_fn", (2,))):
        tensors[f"mtp.0.{name}"] = torch.randn(shape).to(torch.bfloat16)
    save_file(tensors, hub / "model.safetensors", {"format": "pt"})
    out = tmp_path / "out"
    streamconv.convert(hub, out, to="transformers", verify=True)
    assert_loads(model, out)
    mtp = {name for name in reference.read(out) if name.startswith("mtp.")}
    assert {
        "mtp.0.mlp.experts.gate_up_proj",
        "mtp.0.self_attn.q_a_proj.weight",
        "mtp.0.e_proj.weight",
        "mtp.0.hc_head_fn",
        "mtp.0.self_attn.kv_norm.weight",
    } <= mtp
    streamconv.convert(out, tmp_path / "back", to="hub", verify=True)
    assert reference.same_bytes(tensors, reference.read(tmp_path / "back")) == []


def test_deepseek_v4_as_transformers_saves_it(tmp_path: Path) -> None:
    """It calls one norm otherwise than the hub does: that becomes the hub's name on the way."""
    model = build("deepseek_v4")
    model.save_pretrained(tmp_path / "saved")
    save_as_published(model, tmp_path / "hub")
    hub = reference.read(tmp_path / "hub")
    assert any(name.endswith(".attn.norm.weight") for name in reference.read(tmp_path / "saved"))
    streamconv.convert(tmp_path / "saved", tmp_path / "split", to="hub", verify=True)
    assert reference.same_bytes(hub, reference.read(tmp_path / "split")) == []
    streamconv.convert(tmp_path / "saved", tmp_path / "out", to="transformers", verify=True)
    assert_loads(model, tmp_path / "out")
    streamconv.convert(tmp_path / "saved", tmp_path / "same", to="same", copy=True)
    saved = reference.read(tmp_path / "saved")
    assert reference.same_bytes(saved, reference.read(tmp_path / "same")) == []
    both = {**hub, "model.layers.0.attn.norm.weight": torch.ones(8)}
    save_file(both, tmp_path / "hub" / "model.safetensors", {"format": "pt"})
    with pytest.raises(streamconv.BadCheckpoint, match="two names of one tensor"):
        streamconv.plan(tmp_path / "hub", to="transformers")


@pytest.mark.parametrize("head", ["per-expert", "fused"])
@pytest.mark.parametrize("main", ["per-expert", "fused"])
def test_each_hub_form_of_qwen_3_5_is_kept_and_comes_back(
    tmp_path: Path, main: str, head: str
) -> None:
    """The hub has the model and its head per expert or fused: in bf16, in FP8, and of Qwen3.6."""
    original = {
        **made_experts("model.language_model.layers.0.mlp.", main),
        **made_experts("mtp.layers.0.mlp.", head),
    }
    hub = tmp_path / "hub"
    hub.mkdir()
    save_file(original, hub / "model.safetensors", {"format": "pt"})
    (hub / "config.json").write_text('{"model_type": "qwen3_5_moe"}')
    assert streamconv.inspect(hub).detected.form == "hub"
    streamconv.convert(hub, tmp_path / "same", to="hub", copy=True)
    assert reference.same_bytes(original, reference.read(tmp_path / "same")) == []
    for middle in ("transformers", "fused", "fused-flat", "per-expert"):
        streamconv.convert(hub, tmp_path / middle, to=middle, copy=True)
        back = tmp_path / f"{middle}-back"
        streamconv.convert(tmp_path / middle, back, to="hub", copy=True, verify=True)
        assert reference.same_bytes(original, reference.read(back)) == [], middle
    streamconv.convert(tmp_path / "transformers", tmp_path / "twice", to="fused-transposed")
    streamconv.convert(tmp_path / "twice", tmp_path / "twice-back", to="hub")
    assert reference.same_bytes(original, reference.read(tmp_path / "twice-back")) == []


def made_experts(prefix: str, layout: str) -> reference.Tensors:
    shapes = {"gate_proj": (20, 32), "up_proj": (20, 32), "down_proj": (32, 20)}
    tensors = {
        f"{prefix}experts.{number}.{name}.weight": torch.randn(shape).to(torch.bfloat16)
        for number in range(EXPERTS)
        for name, shape in shapes.items()
    }
    return reference.to_layout(tensors, layout)
