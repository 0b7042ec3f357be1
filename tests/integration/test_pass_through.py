"""`--pass-through` copies experts that cannot be converted for any reason, and converts the others.

Without it the reason is the error. The bytes that are copied are those of the source.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from folders import Tensors, fused_tensors, qwen_tensors, read_checkpoint, tensor, write_checkpoint

import streamconv
from streamconv.errors import BadCheckpoint, PlanRefused

CONFIG = {"model_type": "qwen3_moe", "num_experts": 3}
EXPERT = "model.layers.0.mlp.experts.1."

Change = Callable[[Tensors], object]


def retype(tensors: Tensors) -> None:
    """One of the experts in another dtype."""
    name = f"{EXPERT}up_proj.weight"
    tensors[name] = tensor(name, "F32", 6, 4)


def odd_scales(tensors: Tensors) -> None:
    """Weights of FP8 with three scales each."""
    for name in [name for name in tensors if ".experts." in name]:
        tensors[name] = tensor(name, "F8_E4M3", *tensors[name][1])
        tensors[f"{name}_scale"] = tensor(f"{name}_scale", "F32", 3)


def odd_names(tensors: Tensors) -> None:
    tensors[f"{EXPERT}strange.weight"] = tensor("strange", "BF16", 4, 6)


def odd_numbers(tensors: Tensors) -> None:
    tensors["model.layers.0.mlp.experts.01.up_proj.weight"] = tensor("01", "BF16", 6, 4)


def router(tensors: Tensors) -> None:
    tensors["model.layers.0.mlp.gate.weight"] = tensor("gate", "BF16", 2, 4)


def incomplete(tensors: Tensors) -> None:
    del tensors[f"{EXPERT}up_proj.weight"]


def unlike(tensors: Tensors) -> None:
    """The experts of a layer are of another size than those of the others."""
    for name in [name for name in tensors if ".layers.1." in name and ".experts." in name]:
        shape = (4, 7) if "down_proj" in name else (7, 4)
        tensors[name] = tensor(name, "BF16", *shape)


def two_layouts(tensors: Tensors) -> None:
    name = "model.layers.0.mlp.experts.gate_up_proj"
    tensors[name] = tensor(name, "BF16", 3, 12, 4)


REASONS: dict[str, tuple[Change, str]] = {
    "mixed dtypes": (retype, "up_proj.weight is F32"),
    "odd scales": (odd_scales, "no layout has a place for that shape"),
    "odd names": (odd_names, "belongs to an expert, and no layout describes it"),
    "odd numbers": (odd_numbers, "01 is not how experts are numbered"),
    "a router of fewer experts": (router, "gate.weight has 2 rows"),
    "an expert that is missing": (incomplete, "up_proj.weight is missing"),
    "layers that are not alike": (unlike, "the layers of a stack have to be alike"),
    "two layouts at once": (two_layouts, "tensors of more than one layout"),
}


@pytest.mark.parametrize("reason", REASONS)
def test_experts_are_copied(reason: str, tmp_path: Path) -> None:
    change, words = REASONS[reason]
    tensors = qwen_tensors()
    change(tensors)
    src = write_checkpoint(tmp_path / "src", {"model.safetensors": tensors}, CONFIG)
    with pytest.raises((BadCheckpoint, PlanRefused), match=words):
        streamconv.plan(src)
    result = streamconv.merge(src, tmp_path / "dst", pass_through=True, verify=True)
    assert [words in refusal.message for refusal in result.plan.source.refusals.values()] == [True]
    assert read_checkpoint(tmp_path / "dst") == tensors
    assert streamconv.verify(src, tmp_path / "dst").ok
    alone = streamconv.verify(tmp_path / "dst")
    assert alone.ok
    assert words in " ".join(alone.unchecked)


def test_a_layout_that_nothing_tells(tmp_path: Path) -> None:
    """It is not guessed: the tensors stay as they are."""
    tensors = fused_tensors((3, 8, 8), (3, 4, 8))
    src = write_checkpoint(tmp_path / "src", {"model.safetensors": tensors})
    with pytest.raises(PlanRefused, match="alike"):
        streamconv.plan(src, to="per-expert")
    streamconv.convert(src, tmp_path / "dst", to="per-expert", pass_through=True, verify=True)
    assert read_checkpoint(tmp_path / "dst") == tensors


def test_other_stacks_are_converted(tmp_path: Path) -> None:
    """Those below another prefix."""
    whole, broken = qwen_tensors(layers=1), qwen_tensors(layers=1, prefix="mtp.")
    broken["mtp.layers.0.mlp.experts.1.up_proj.weight"] = tensor("another dtype", "F32", 6, 4)
    src = write_checkpoint(tmp_path / "src", {"model.safetensors": {**whole, **broken}})
    result = streamconv.merge(src, tmp_path / "dst", pass_through=True, verify=True)
    assert [stack.pattern for stack in result.plan.source.stacks] == ["model.layers.*.mlp."]
    assert [*result.plan.source.refusals] == ["mtp.layers.*.mlp."]
    got = read_checkpoint(tmp_path / "dst")
    assert {name: got[name] for name in broken} == broken
    assert "model.layers.0.mlp.experts.gate_up_proj" in got


def test_a_result_that_lacks_an_expert_is_not_the_conversion(tmp_path: Path) -> None:
    """What is incomplete in the output alone is a difference, and nothing to be left as it is."""
    tensors = qwen_tensors()
    src = write_checkpoint(tmp_path / "src", {"model.safetensors": tensors}, CONFIG)
    incomplete(tensors)
    dst = write_checkpoint(tmp_path / "dst", {"model.safetensors": tensors}, CONFIG)
    found = streamconv.verify(src, dst)
    assert "up_proj.weight is missing" in found.differences[0].detail
    (alone,) = streamconv.verify(dst).differences
    assert "up_proj.weight is missing" in alone.detail
