"""Mistral's own checkpoints: `consolidated*.safetensors` and params.json, without config.json."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from folders import Tensors, read_checkpoint, tensor, write_checkpoint

import streamconv
from streamconv.cli import cli
from streamconv.errors import PlanRefused

EXPERTS, INTER, HIDDEN = 4, 6, 8
SHAPES = {"w1": (INTER, HIDDEN), "w2": (HIDDEN, INTER), "w3": (INTER, HIDDEN)}
PARAMS = {"dim": HIDDEN, "n_layers": 1, "moe": {"num_experts": EXPERTS, "num_experts_per_tok": 2}}
KIND = "a checkpoint under Mistral's own names"
MIXTRAL, LARGE = "layers.0.feed_forward.", "layers.0."
"""Below which the experts of Mixtral and of Mistral Large 3 lie."""


def rest() -> Tensors:
    shapes = {
        "tok_embeddings.weight": (16, HIDDEN),
        "layers.0.attention.wq.weight": (HIDDEN, HIDDEN),
        "layers.0.attention_norm.weight": (HIDDEN,),
        "layers.0.ffn_norm.weight": (HIDDEN,),
        "norm.weight": (HIDDEN,),
        "output.weight": (16, HIDDEN),
    }
    return {name: tensor(name, "BF16", *shape) for name, shape in shapes.items()}


def sparse(prefix: str) -> Tensors:
    names = {
        f"{prefix}experts.{expert}.{word}.weight": shape
        for expert in range(EXPERTS)
        for word, shape in SHAPES.items()
    }
    names[f"{prefix}gate.weight"] = (EXPERTS, HIDDEN)
    names |= {f"layers.0.shared_experts.{w}.weight": s for w, s in SHAPES.items()}
    return {name: tensor(name, "BF16", *shape) for name, shape in names.items()}


def native(folder: Path, tensors: Tensors, *, shards: int = 1) -> Path:
    names = list(tensors)
    if shards == 1:
        files = {"consolidated.safetensors": tensors}
    else:
        files = {
            f"consolidated-0000{n + 1}-of-0000{shards}.safetensors": {
                name: tensors[name] for name in names[n::shards]
            }
            for n in range(shards)
        }
    write_checkpoint(folder, files, None, False)
    if shards > 1:
        index = {"weight_map": {name: file for file, held in files.items() for name in held}}
        (folder / "consolidated.safetensors.index.json").write_text(json.dumps(index))
    (folder / "params.json").write_text(json.dumps(PARAMS))
    (folder / "tekken.json").write_text("{}")
    return folder


def shown(folder: Path) -> str:
    return CliRunner().invoke(cli, ["inspect", str(folder)], terminal_width=200).output


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("prefix", [MIXTRAL, LARGE])
def test_its_experts_are_merged_and_come_back(prefix: str, shards: int, tmp_path: Path) -> None:
    """Gate rows above up rows, expert by expert; everything else as it is, params.json too."""
    tensors = {**rest(), **sparse(prefix)}
    source = native(tmp_path / "in", tensors, shards=shards)
    output = shown(source)
    assert KIND in output
    assert "there is no config.json" in output
    result = streamconv.merge(source, tmp_path / "out", verify=True)
    assert (result.plan.target.asked, result.plan.target.form) == ("fused", None)
    expected = {name: each for name, each in tensors.items() if ".experts." not in name}
    raw = {name: each[2] for name, each in tensors.items()}
    halves = [raw[f"{prefix}experts.{e}.{w}.weight"] for e in range(EXPERTS) for w in ("w1", "w3")]
    shape = (EXPERTS, 2 * INTER, HIDDEN)
    expected[f"{prefix}experts.gate_up_proj"] = ("BF16", shape, b"".join(halves))
    downs = [raw[f"{prefix}experts.{e}.w2.weight"] for e in range(EXPERTS)]
    shape = (EXPERTS, HIDDEN, INTER)
    expected[f"{prefix}experts.down_proj"] = ("BF16", shape, b"".join(downs))
    assert read_checkpoint(tmp_path / "out") == expected
    assert json.loads((tmp_path / "out" / "params.json").read_text()) == PARAMS
    streamconv.split(tmp_path / "out", tmp_path / "back", verify=True)
    assert read_checkpoint(tmp_path / "back") == tensors


def test_a_dense_one_is_shown_and_copied(tmp_path: Path) -> None:
    words = {f"layers.0.feed_forward.{word}.weight": s for word, s in SHAPES.items()}
    dense = {**rest(), **{name: tensor(name, "BF16", *shape) for name, shape in words.items()}}
    source = native(tmp_path / "in", dense)
    assert KIND in shown(source)
    with pytest.raises(PlanRefused, match="holds no experts") as caught:
        streamconv.plan(source)
    assert "--copy" in caught.value.hint
    streamconv.merge(source, tmp_path / "out", copy=True)
    assert read_checkpoint(tmp_path / "out") == dense


def test_next_to_the_files_of_the_hub_it_is_left_and_named(tmp_path: Path) -> None:
    """Both in one repository: what is converted is under the hub's names, and nothing says else."""
    prefix = "model.layers.0.block_sparse_moe."
    hub = {
        name.replace(MIXTRAL, prefix): each
        for name, each in sparse(MIXTRAL).items()
        if "shared" not in name
    }
    source = native(tmp_path / "in", {**rest(), **sparse(MIXTRAL)})
    config = {"model_type": "mixtral", "num_local_experts": EXPERTS}
    write_checkpoint(tmp_path / "hub", {"model.safetensors": hub}, config, False)
    for file in (tmp_path / "hub").iterdir():
        file.rename(source / file.name)
    output = shown(source)
    assert KIND not in output
    assert "not carried over: consolidated.safetensors" in output
    streamconv.merge(source, tmp_path / "out", verify=True)
    names = {"mlp.gate.weight", "mlp.experts.gate_up_proj", "mlp.experts.down_proj"}
    assert {*read_checkpoint(tmp_path / "out")} == {f"model.layers.0.{name}" for name in names}
