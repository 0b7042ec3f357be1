"""Tensors beside the experts that a form joins or turns: found whole, moved exactly, or refused."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import reference
import torch
from click.testing import CliRunner
from dcp_folders import stock
from safetensors.torch import save_file

import streamconv
from streamconv.cli import cli
from streamconv.families import families
from streamconv.report import plan_fields

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


def command(*args: object) -> subprocess.CompletedProcess[str]:
    """In a process of its own: a file of families is taken in for the rest of one."""
    line = [sys.executable, "-m", "streamconv", *map(str, args)]
    return subprocess.run(line, capture_output=True, text=True, check=False)


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
    assert [(d.what, d.projection) for d in found.differences] == [
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


def take_the_name(held: Tensors) -> None:
    held["model.layers.1.self_attn.conv1d.weight"] = torch.randn(ROWS, 1, 4)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (drop, "k_conv1d.weight is missing"),
        (widen, "tensors of one group have to be alike"),
        (flatten, r"shape \[6, 4\], which is not that of its group where q = 3"),
        (scale, "weight_scale_inv belongs to one that the form 'transformers' joins"),
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
    { where = "vision.*.", plain = "wq : (n x r) h", here = "wq : (n r x) h", sizes = {HEADS} },
]
""".replace("{HEADS}", '{ n = "vision.heads", r = 2 }')
    )
    folder = tmp_path / "hub"
    folder.mkdir()
    held = {"vision.0.wq": torch.randn(12, 5), "model.wq": torch.randn(2, 2)}
    for number in range(EXPERTS):
        for name in ("gate", "up", "down"):
            key = f"model.layers.0.mlp.experts.{number}.{name}_proj.weight"
            held[key] = torch.randn((5, 4) if name != "down" else (4, 5))
    save_file(held, folder / "model.safetensors")
    config = {"model_type": "turned", "num_experts": EXPERTS, "vision": {"heads": 2}}
    for heads, code in ((2, 0), (5, 3), ("two", 3)):
        config["vision"] = {"heads": heads}
        (folder / "config.json").write_text(json.dumps(config))
        args = ["convert", folder, tmp_path / f"out-{heads}", "--to", "transformers", "--verify"]
        done = command(*args, "--family", mine)
        assert done.returncode == code, done.stderr
    made = reference.read(tmp_path / "out-2")
    turned = held["vision.0.wq"].view(2, 3, 2, 5).transpose(1, 2).reshape(12, 5)
    assert made["vision.0.wq"].equal(turned)
    assert made["model.wq"].equal(held["model.wq"])
    back = tmp_path / "back"
    done = command("convert", tmp_path / "out-2", back, "--to", "hub", "--family", mine)
    assert done.returncode == 0, done.stderr
    assert reference.same_bytes(held, reference.read(back)) == []


@pytest.mark.parametrize(
    "group",
    [
        "{ where = '*.', plain = '{q}_a : c', here = 'a : (q c)' }",
        "{ where = '*.', q = ['x', 'y'], plain = '{q}_a : c', here = 'a : (q d)' }",
        "{ plain = 'a : c', here = 'b : c' }",
    ],
)
def test_a_bad_row_is_refused(group: str, tmp_path: Path) -> None:
    text = (
        "[families.x]\nmodel_types = ['x']\nmerge = 'hub'\nstacks = {'m.*.' = ''}\n"
        f"hub.layouts = {{'*' = 'fused'}}\nhub.groups = [{group}]"
    )
    (tmp_path / "mine.toml").write_text(text)
    done = command("merge", tmp_path, tmp_path / "out", "--family", tmp_path / "mine.toml")
    assert done.returncode == 2
    assert re.search("is not told by its row|lacks 'where'", done.stderr)


def test_no_form_of_the_hub_has_groups() -> None:
    """Plain is the hub's: what a form says of `plain` is what is published."""
    assert not any(family.forms["hub"].groups for family in families().values())
