"""`[weights.*]` of a user's file, and templates of scalars: used, or refused.

The oracle is a formula over whole tensors.
"""

from pathlib import Path

import pytest
from folders import Tensors, qwen_tensors, read_checkpoint, tensor, write_checkpoint

import streamconv
from streamconv.catalog.catalog import load_catalog
from streamconv.errors import PlanRefused, UsageError

SCALARS = """
[weights.per_tensor]
part = "scaling"
suffix = "_scaling"
gate_up = { i = "", h = "" }
down = { i = "", h = "" }
"""
LAYOUT = """
[layouts.scaled]
gate_up = "experts.{e}.{p}.weight : i h"
down = "experts.{e}.{d}.weight : h i"
gate_up_bias = "experts.{e}.{p}.shift :"
down_bias = "experts.{e}.{d}.shift :"
[layouts.scaled-fused]
gate_up = "experts.gate_up_proj : e (p i) h"
down = "experts.down_proj : e h i"
gate_up_bias = "experts.gate_up_shift : e p"
down_bias = "experts.down_shift : e"
"""


def with_scalars(word: str) -> Tensors:
    """Qwen's names, and a number of its own for each weight of an expert."""
    tensors = qwen_tensors()
    for name in [name for name in tensors if ".experts." in name]:
        stem = name.removesuffix("weight")
        tensors[f"{stem}{word}"] = tensor(f"{stem}{word}", "F32")
    return tensors


def family_file(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def merged(tensors: Tensors, layer: int, projections: tuple[str, ...], word: str) -> bytes:
    return b"".join(
        tensors[f"model.layers.{layer}.mlp.experts.{expert}.{projection}.{word}"][2]
        for expert in range(3)
        for projection in projections
    )


def test_a_kind_of_weight_of_a_file_is_converted(tmp_path: Path) -> None:
    """A number for each projection of an expert: they are numbers for all of them then."""
    tensors = with_scalars("scaling")
    src = write_checkpoint(tmp_path / "src", {"model.safetensors": tensors})
    with pytest.raises(PlanRefused, match="scaling belongs to"):
        streamconv.plan(src)
    mine = family_file(tmp_path, SCALARS)
    streamconv.merge(src, tmp_path / "dst", family=mine, verify=True)
    got = read_checkpoint(tmp_path / "dst")
    for layer in range(2):
        experts = f"model.layers.{layer}.mlp.experts."
        both = merged(tensors, layer, ("gate_proj", "up_proj"), "scaling")
        assert got[f"{experts}gate_up_proj_scaling"] == ("F32", (3, 2), both)
        down = merged(tensors, layer, ("down_proj",), "scaling")
        assert got[f"{experts}down_proj_scaling"][2] == down
    streamconv.split(tmp_path / "dst", tmp_path / "back", family=mine)
    assert read_checkpoint(tmp_path / "back") == tensors


def test_a_layout_with_scalars(tmp_path: Path) -> None:
    tensors = with_scalars("shift")
    src = write_checkpoint(tmp_path / "src", {"model.safetensors": tensors})
    mine = family_file(tmp_path, LAYOUT)
    streamconv.convert(src, tmp_path / "dst", to="scaled-fused", family=mine, verify=True)
    got = read_checkpoint(tmp_path / "dst")
    both = merged(tensors, 1, ("gate_proj", "up_proj"), "shift")
    assert got["model.layers.1.mlp.experts.gate_up_shift"] == ("F32", (3, 2), both)
    streamconv.convert(tmp_path / "dst", tmp_path / "back", to="scaled", family=mine)
    assert read_checkpoint(tmp_path / "back") == tensors


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[weights.mine]\nsuffix = '_x'", r"weights\.mine\.part .*it is missing"),
        ("[weights.mine]\npart = 'x'\npacked = 1", r"weights\.mine\.packed .*true or false"),
        ("[weights.mine]\npart = 'x'\ncolumns = 1", r"weights\.mine\.columns .*no such field"),
        ("[weights.mine]\npart = 'bias'\nsuffix = '_mine'", "part 'bias', as 'bias' has"),
        ("[weights.mine]\npart = 'mine'\nsuffix = '_bias'", "suffix '_bias', as 'bias' has"),
        ("[weight.mine]\npart = 'mine'", "cannot read weight of .*there is no such table"),
        ("[layout.mine]\ngate_up = 'a : e'", "cannot read layout of .*there is no such table"),
        ("[layouts.mine]\ngate_up = 'a'\ndown = 'b : e'", "it is not a tensor template"),
    ],
)
def test_what_is_refused(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        load_catalog(family_file(tmp_path, text))


def test_stars_in_the_middle_of_a_rename(tmp_path: Path) -> None:
    """On both sides, and as many as there are; the renames lead back."""
    text = """
[families.mine]
model_types = ["my_moe"]
stacks = { "model.layers.*.mlp." = "" }
hub.layouts = { "*" = "per-expert" }
transformers.layouts = { "*" = "fused" }
transformers.renames = [
  { hub_name = "*.attn.*.proj", form_name = "*.mixer.*.linear" },
  { hub_name = "a.*.b.*.c", form_name = "x.*.y.*.z" },
]
"""
    form = load_catalog(family_file(tmp_path, text)).families["mine"].forms["transformers"]
    for hub_name, form_name in (
        ("l.0.attn.q.proj", "l.0.mixer.q.linear"),
        ("l.0.attn.q.k.proj", "l.0.mixer.q.k.linear"),
        ("a.1.b.2.c", "x.1.y.2.z"),
        ("l.0.attn.proj", "l.0.attn.proj"),
    ):
        assert form.apply(hub_name) == form_name
        assert form.undo(form_name) == hub_name
