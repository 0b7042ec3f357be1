"""Groups of tensors that a form joins, splits or transposes: moved exactly, or refused."""

import json
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import reference
import torch
from click.testing import CliRunner
from dcp_folders import stock
from folders import forget
from safetensors.torch import save_file

import streamconv
from streamconv.catalog.catalog import default_catalog
from streamconv.cli import cli
from streamconv.errors import BadCheckpoint, UsageError
from streamconv.report.plan_json import plan_fields

ATTENTION = "model.layers.0.self_attn."
EXPERTS, ROWS = 11, 6

Tensors = reference.Tensors


def tensors() -> Tensors:
    """A layer of Kimi-Linear, as far as it matters: convolutions, experts, a norm."""
    torch.manual_seed(0)
    made: Tensors = {"model.norm.weight": torch.randn(4)}
    for name in "qkv":
        made[f"{ATTENTION}{name}_conv1d.weight"] = torch.randn(ROWS, 1, 4)
    for number in range(EXPERTS):
        for name, shape in (("w1", (5, 4)), ("w3", (5, 4)), ("w2", (4, 5))):
            made[f"model.layers.0.block_sparse_moe.experts.{number}.{name}.weight"] = torch.randn(
                shape
            )
    return made


def write(folder: Path, held: Tensors) -> Path:
    folder.mkdir()
    save_file(held, folder / "model.safetensors")
    config = {"model_type": "kimi_linear", "num_experts": EXPERTS}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_joined_and_taken_apart(tmp_path: Path) -> None:
    """By torch's own cat; each conversion proven by `verify` as well, and named in the plan."""
    held = tensors()
    hub = write(tmp_path / "hub", held)
    memory, back = tmp_path / "memory", tmp_path / "back"
    streamconv.convert(hub, memory, to="transformers", verify=True)
    joined = torch.cat([held[f"{ATTENTION}{name}_conv1d.weight"] for name in "qkv"])
    made = reference.read(memory)
    assert made[f"{ATTENTION}conv1d.weight"].equal(joined)
    assert not any("q_conv1d" in name for name in made)
    streamconv.convert(memory, back, to="hub", verify=True)
    assert reference.same_bytes(held, reference.read(back)) == []
    (row,) = plan_fields(streamconv.plan(hub, to="transformers"), None)["target"]["regrouped"]
    assert row == (
        "model.layers.*.self_attn.{q}_conv1d.weight : c o k -> conv1d.weight : (q c) o k"
    )
    args = ["merge", str(hub), str(tmp_path / "x"), "--dry-run"]
    assert "regrouped" in CliRunner().invoke(cli, args).output


def test_a_bare_layout_leaves_them_as_they_are(tmp_path: Path) -> None:
    """On the hub's side apart, on transformers' side joined; `per-expert` is the hub's."""
    hub = write(tmp_path / "hub", tensors())
    streamconv.convert(hub, tmp_path / "stacked", to="stacked")
    assert f"{ATTENTION}q_conv1d.weight" in reference.read(tmp_path / "stacked")
    streamconv.convert(hub, tmp_path / "memory", to="transformers")
    streamconv.convert(tmp_path / "memory", tmp_path / "joined", to="stacked")
    assert f"{ATTENTION}conv1d.weight" in reference.read(tmp_path / "joined")
    streamconv.convert(tmp_path / "joined", tmp_path / "back", to="per-expert")
    assert reference.same_bytes(tensors(), reference.read(tmp_path / "back")) == []


def test_through_a_dcp_and_held_against_its_template(tmp_path: Path) -> None:
    """Joined in the DCP, for torch's own reader; the template has them apart, and nothing lacks."""
    held = tensors()
    hub = write(tmp_path / "hub", held)
    streamconv.merge(hub, tmp_path / "dcp", format="dcp", verify=True)
    joined = torch.cat([held[f"{ATTENTION}{name}_conv1d.weight"] for name in "qkv"])
    assert stock(tmp_path / "dcp")[f"{ATTENTION}conv1d.weight"].equal(joined)
    streamconv.split(tmp_path / "dcp", tmp_path / "back", template=hub)
    assert reference.same_bytes(held, reference.read(tmp_path / "back")) == []


def test_of_the_wanted_layers_alone(tmp_path: Path) -> None:
    held = tensors()
    held |= {n.replace("layers.0", "layers.1"): t + 1 for n, t in held.items() if "layers" in n}
    hub = write(tmp_path / "hub", held)
    streamconv.merge(hub, tmp_path / "out", layers="1:2", verify=True)
    made = reference.read(tmp_path / "out")
    convolutions = {name for name in made if "conv1d" in name}
    assert convolutions == {"model.layers.1.self_attn.conv1d.weight"}


def test_layers_of_different_dtypes(tmp_path: Path) -> None:
    """Alike but for the width of their elements: each moves as what it is."""
    held = tensors()
    for name in "qkv":
        wide = held[f"{ATTENTION}{name}_conv1d.weight"]
        held[f"model.layers.1.self_attn.{name}_conv1d.weight"] = wide.to(torch.bfloat16)
    hub, out = write(tmp_path / "hub", held), tmp_path / "out"
    streamconv.convert(hub, out, to="transformers", verify=True)
    narrow = [held[f"model.layers.1.self_attn.{name}_conv1d.weight"] for name in "qkv"]
    assert reference.read(out)["model.layers.1.self_attn.conv1d.weight"].equal(torch.cat(narrow))
    streamconv.convert(out, tmp_path / "back", to="hub", verify=True)
    assert reference.same_bytes(held, reference.read(tmp_path / "back")) == []


def test_what_is_exchanged_in_a_joined_tensor_is_found(tmp_path: Path) -> None:
    """The rows of query and key, of one shape: named by what they are."""
    hub = write(tmp_path / "hub", tensors())
    streamconv.convert(hub, tmp_path / "out", to="transformers")
    (shard,) = (tmp_path / "out").glob("*.safetensors")
    raw = bytearray(shard.read_bytes())
    wanted = [tensors()[f"{ATTENTION}{name}_conv1d.weight"].numpy().tobytes() for name in "qk"]
    at = raw.index(wanted[0] + wanted[1])
    raw[at : at + 2 * len(wanted[0])] = wanted[1] + wanted[0]
    shard.write_bytes(raw)
    found = streamconv.verify(hub, tmp_path / "out")
    assert [(d.subject, d.projection) for d in found.differences] == [
        (f"{ATTENTION}conv1d.weight", "q"),
        (f"{ATTENTION}conv1d.weight", "k"),
    ], found.differences


def drop(held: Tensors) -> None:
    del held[f"{ATTENTION}k_conv1d.weight"]


def widen(held: Tensors) -> None:
    held[f"{ATTENTION}k_conv1d.weight"] = torch.randn(ROWS + 1, 1, 4)


def flatten(held: Tensors) -> None:
    for name in "qkv":
        held[f"{ATTENTION}{name}_conv1d.weight"] = torch.randn(ROWS, 4)


def scale(held: Tensors) -> None:
    held[f"{ATTENTION}k_conv1d.weight_scale_inv"] = torch.randn(1, 1)


def scale_channels(held: Tensors) -> None:
    held[f"{ATTENTION}k_conv1d.weight_scale"] = torch.randn(ROWS, 1)


def pack(held: Tensors) -> None:
    for name in "qkv":
        del held[f"{ATTENTION}{name}_conv1d.weight"]
        held[f"{ATTENTION}{name}_conv1d.weight_packed"] = torch.ones(ROWS, 1, dtype=torch.int32)


def take_the_name(held: Tensors) -> None:
    held["model.layers.1.self_attn.conv1d.weight"] = torch.randn(ROWS, 1, 4)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (drop, "k_conv1d.weight is missing"),
        (widen, "tensors of one group have to be alike"),
        (flatten, r"shape \[6, 4\], which is not that of its group if q = 3"),
        (scale, "weight_scale_inv belongs to one that the form 'transformers' joins, splits"),
        (scale_channels, "k_conv1d.weight_scale belongs to one that the form 'transformers'"),
        (pack, "weight_packed belongs to one .* no table says what becomes of it"),
        (take_the_name, "layers.1.self_attn.conv1d.weight has a name that the form"),
    ],
)
def test_what_does_not_fit_is_refused(
    spoil: Callable[[Tensors], None], said: str, tmp_path: Path
) -> None:
    held = tensors()
    spoil(held)
    hub = write(tmp_path / "hub", held)
    with pytest.raises(streamconv.StreamconvError, match=said):
        streamconv.convert(hub, tmp_path / "out", to="transformers")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("quantize", [scale, scale_channels, pack])
def test_what_is_quantized_stays_under_a_layout(
    quantize: Callable[[Tensors], None], tmp_path: Path
) -> None:
    """As the refusal says: a bare layout leaves weights and scales as they are."""
    held = tensors()
    quantize(held)
    hub = write(tmp_path / "hub", held)
    streamconv.convert(hub, tmp_path / "out", to="fused", verify=True)
    others = {name: tensor for name, tensor in held.items() if ".experts." not in name}
    made = reference.read(tmp_path / "out")
    assert reference.same_bytes(others, {name: made[name] for name in others}) == []


def test_sizes_from_the_config(tmp_path: Path) -> None:
    """Rows turned within each head, under one name on both sides: the record says which it has."""
    mine = tmp_path / "mine.toml"
    mine.write_text(
        """
[families.turned]
model_types = ["turned"]
stacks = { "model.layers.*.mlp." = "" }
hub.layouts = { "*" = "per-expert" }
transformers.layouts = { "*" = "fused" }
transformers.groups = [
    { where = "vision.*.", hub_name = "wq : (n x r) h", form_name = "wq : (n r x) h", {SIZES} },
]
""".replace("{SIZES}", 'sizes = { n = "vision.heads", r = 2 }')
    )
    folder = tmp_path / "hub"
    folder.mkdir()
    held = {"vision.0.wq": torch.randn(12, 5), "model.wq": torch.randn(2, 2)}
    for number in range(EXPERTS):
        for name in ("gate", "up", "down"):
            key = f"model.layers.0.mlp.experts.{number}.{name}_proj.weight"
            held[key] = torch.randn((5, 4) if name != "down" else (4, 5))
    save_file(held, folder / "model.safetensors")
    config = {"model_type": "turned", "num_experts": EXPERTS}
    for heads, form, error in (
        (2, "transformers", None),
        (5, "transformers", "wq"),
        ("two", "transformers", "config.json does not have vision.heads"),
        ("two", "stacked", None),
    ):
        config["vision"] = {"heads": heads}
        (folder / "config.json").write_text(json.dumps(config))
        raised = nullcontext() if error is None else pytest.raises(BadCheckpoint, match=error)
        with raised:
            streamconv.convert(folder, tmp_path / f"out-{heads}", to=form, verify=True, family=mine)
    assert reference.read(tmp_path / "out-two")["vision.0.wq"].equal(held["vision.0.wq"])
    made = reference.read(tmp_path / "out-2")
    turned = held["vision.0.wq"].view(2, 3, 2, 5).transpose(1, 2).reshape(12, 5)
    assert made["vision.0.wq"].equal(turned)
    assert made["model.wq"].equal(held["model.wq"])
    back = tmp_path / "back"
    streamconv.convert(tmp_path / "out-2", back, to="hub", family=mine)
    assert reference.same_bytes(held, reference.read(back)) == []


QKV = "model.layers.0.attention.query_key_value.weight"
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}


def sarvam(folder: Path, width: int = 3) -> Tensors:
    """Query, key and value in one tensor, of 4, 2 and 2 heads, and experts."""
    torch.manual_seed(0)
    held = {QKV: torch.randn(8 * width, 5), "model.norm.weight": torch.randn(5)}
    for number in range(EXPERTS):
        for name, shape in (("gate", (6, 5)), ("up", (6, 5)), ("down", (5, 6))):
            held[f"model.layers.0.mlp.experts.{number}.{name}_proj.weight"] = torch.randn(shape)
    folder.mkdir()
    save_file(held, folder / "model.safetensors")
    config = {"model_type": "sarvam_moe", "num_experts": EXPERTS, **HEADS}
    (folder / "config.json").write_text(json.dumps(config))
    return held


def test_parts_of_one_tensor(tmp_path: Path) -> None:
    """Taken out of it and put together again, of whatever size: by torch's own split."""
    hub, memory = tmp_path / "hub", tmp_path / "memory"
    held = sarvam(hub)
    streamconv.convert(hub, memory, to="transformers", verify=True)
    made = reference.read(memory)
    for name, rows in zip("qkv", held[QKV].split([12, 6, 6]), strict=True):
        assert made[f"model.layers.0.self_attn.{name}_proj.weight"].equal(rows)
    streamconv.convert(memory, tmp_path / "back", to="hub", verify=True)
    assert reference.same_bytes(held, reference.read(tmp_path / "back")) == []
    said = plan_fields(streamconv.plan(hub, to="transformers"), None)["target"]["regrouped"]
    assert said[2] == (
        "model.layers.*.attention.query_key_value.weight : (m c) h -> v_proj.weight : (m c) h"
    )


def test_parts_in_a_dcp_and_under_a_cast(tmp_path: Path) -> None:
    """A tensor put together of parts is one chunk; what is read of the middle of one is cast."""
    hub, memory = tmp_path / "hub", tmp_path / "memory"
    held = sarvam(hub)
    streamconv.convert(hub, memory, to="transformers")
    streamconv.convert(memory, tmp_path / "dcp", to="hub", format="dcp", verify=True)
    assert stock(tmp_path / "dcp")[QKV].equal(held[QKV])
    streamconv.convert(hub, tmp_path / "cast", to="transformers", dtype="bf16", verify=True)
    key = reference.read(tmp_path / "cast")["model.layers.0.self_attn.k_proj.weight"]
    assert key.equal(held[QKV][12:18].to(torch.bfloat16))
    streamconv.split(tmp_path / "dcp", tmp_path / "back", template=hub)
    assert reference.same_bytes(held, reference.read(tmp_path / "back")) == []


def test_what_a_template_fills_in_stands_as_it_does_there(tmp_path: Path) -> None:
    """Trained as transformers holds it, without attention: that of the hub becomes either form."""
    hub, partial, dcp = (tmp_path / name for name in ("hub", "partial", "dcp"))
    held = sarvam(hub)
    streamconv.convert(hub, tmp_path / "memory", to="transformers")
    sarvam(partial)
    save_file({n: t for n, t in held.items() if n != QKV}, partial / "model.safetensors")
    streamconv.convert(partial, dcp, to="transformers", format="dcp")
    assert len(stock(dcp)) == 3
    for form, wanted in (("hub", hub), ("transformers", tmp_path / "memory")):
        out = tmp_path / f"to-{form}"
        streamconv.convert(dcp, out, to=form, template=hub, fill_from_template=True, verify=True)
        assert reference.same_bytes(reference.read(wanted), reference.read(out)) == []


def test_what_is_exchanged_among_parts_is_found(tmp_path: Path) -> None:
    """The rows of key and value, of one shape, in the tensor that holds both."""
    hub, memory, out = (tmp_path / name for name in ("hub", "memory", "out"))
    held = sarvam(hub)
    streamconv.convert(hub, memory, to="transformers")
    streamconv.convert(memory, out, to="hub")
    query, key, value = (part.numpy().tobytes() for part in held[QKV].split([12, 6, 6]))
    (shard,) = out.glob("*.safetensors")
    raw = shard.read_bytes()
    assert query + key + value in raw
    shard.write_bytes(raw.replace(query + key + value, query + value + key))
    found = streamconv.verify(memory, out).differences
    assert [difference.subject for difference in found] == [QKV, QKV]
    assert {re.sub(r".*\.(._proj).*", r"\1", d.detail) for d in found} == {"k_proj", "v_proj"}


def test_rows_turned_within_some_parts(tmp_path: Path) -> None:
    """Query and key of Kimi-K2.5's tower to halves for rotary positions, value as it is."""
    torch.manual_seed(0)
    where, (heads, half, hidden) = "vision_tower.encoder.blocks.0.", (3, 2, 7)
    rows = heads * half * 2
    held: Tensors = {
        f"{where}wqkv.weight": torch.randn(3 * rows, hidden),
        f"{where}wqkv.bias": torch.randn(3 * rows),
    }
    for number in range(EXPERTS):
        for name, shape in (("gate", (6, 5)), ("up", (6, 5)), ("down", (5, 6))):
            key = f"language_model.model.layers.0.mlp.experts.{number}.{name}_proj.weight"
            held[key] = torch.randn(shape)
    hub = tmp_path / "hub"
    hub.mkdir()
    save_file(held, hub / "model.safetensors")
    for heads_key in ("num_attention_heads", "vt_num_attention_heads"):
        config = {"model_type": "kimi_k25", "vision_config": {heads_key: heads}}
        (hub / "config.json").write_text(json.dumps(config))
        memory = tmp_path / heads_key
        streamconv.convert(hub, memory, to="transformers", verify=True)
        made = reference.read(memory)
        for end in ("weight", "bias"):
            for name, part in zip("qkv", held[f"{where}wqkv.{end}"].chunk(3), strict=True):
                turned = part.view(heads, half, 2, -1).transpose(1, 2).reshape(part.shape)
                here = made[f"model.vision_tower.layers.0.attn.{name}_proj.{end}"]
                assert here.equal(part if name == "v" else turned)
        streamconv.convert(memory, tmp_path / f"{heads_key}-back", to="hub", verify=True)
        back = reference.read(tmp_path / f"{heads_key}-back")
        assert reference.same_bytes(held, back) == []


def shards_of(folder: Path, count: int, said: int | None) -> Tensors:
    """An embedding in `count` numbered tensors, of which the config says `said`."""
    torch.manual_seed(0)
    held: Tensors = {"model.language_model.norm.weight": torch.randn(5)}
    for number in range(count):
        held[f"{NGRAM}.shard_{number}.weight"] = torch.randn(2, 3)
    for number in range(EXPERTS):
        for name, shape in (("gate", (6, 5)), ("up", (6, 5)), ("down", (5, 6))):
            key = f"model.language_model.layers.0.mlp.experts.{number}.{name}_proj.weight"
            held[key] = torch.randn(shape)
    folder.mkdir()
    save_file(held, folder / "model.safetensors")
    text = {"num_experts": EXPERTS} | ({} if said is None else {"split_ngram_parts": said})
    (folder / "config.json").write_text(
        json.dumps({"model_type": "qwen4_exp", "text_config": text})
    )
    return held


NGRAM = "model.language_model.layers.0.ple.ple_embedding.ngram_embedding"


def test_as_many_as_the_config_says(tmp_path: Path) -> None:
    """Numbered tensors are joined in the order of their numbers; the names tell which there are."""
    hub, memory, back = (tmp_path / name for name in ("hub", "memory", "back"))
    held = shards_of(hub, 12, 12)
    streamconv.convert(hub, memory, to="transformers", verify=True)
    made = reference.read(memory)
    assert made[f"{NGRAM}.weight"].equal(
        torch.cat([held[f"{NGRAM}.shard_{number}.weight"] for number in range(12)])
    )
    forget(memory)
    streamconv.convert(memory, back, to="hub", verify=True)
    assert reference.same_bytes(held, reference.read(back)) == []


@pytest.mark.parametrize(
    ("count", "said", "message"),
    [
        (3, 4, "shard_3.weight is missing"),
        (3, 10**14, "shard_3.weight is missing"),
        (4, 3, "unexpected tensor .*shard_3.weight: config.json says s = 3"),
        (3, None, "config.json does not have text_config.split_ngram_parts"),
    ],
)
def test_other_than_the_config_says(
    count: int, said: int | None, message: str, tmp_path: Path
) -> None:
    hub, out = tmp_path / "hub", tmp_path / "out"
    held = shards_of(hub, count, said)
    with pytest.raises(streamconv.StreamconvError, match=message):
        streamconv.convert(hub, out, to="transformers")
    assert not out.exists()
    if said is None:
        streamconv.convert(hub, out, to="fused", verify=True)
        shards = {name: tensor for name, tensor in held.items() if NGRAM in name}
        made = reference.read(out)
        assert reference.same_bytes(shards, {name: made[name] for name in shards}) == []


@pytest.mark.parametrize(
    "group",
    [
        "{ where = '*.', parts = [{ hub_name = 'a : c', form_name = 'b : c' }, "
        "{ hub_name = 'a : d' }] }",
        "{ where = '*.', parts = [{ hub_name = 'a : c', form_name = 'b : d' }] }",
        "{ where = '*.', hub_name = '{q}_a : c', form_name = 'a : (q c)' }",
        "{ where = '*.', q = ['x', 'y'], hub_name = '{q}_a : c', form_name = 'a : (q d)' }",
        "{ hub_name = 'a : c', form_name = 'b : c' }",
    ],
)
def test_a_bad_row_is_refused(group: str, tmp_path: Path) -> None:
    text = (
        "[families.x]\nmodel_types = ['x']\nmerge = 'hub'\nstacks = {'m.*.' = ''}\n"
        f"hub.layouts = {{'*' = 'fused'}}\nhub.groups = [{group}]"
    )
    (tmp_path / "mine.toml").write_text(text)
    said = r"does not settle every axis|\.(where|form_name) of .*: it is missing"
    with pytest.raises(UsageError, match=said):
        streamconv.merge(tmp_path, tmp_path / "out", family=tmp_path / "mine.toml")


def test_no_form_of_the_hub_has_groups() -> None:
    """Plain is the hub's: what a form says of `plain` is what is published."""
    assert not any(family.forms["hub"].groups for family in default_catalog().families.values())
