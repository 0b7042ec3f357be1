"""A DCP completed by its hub checkpoint: config, files, and tensors that it lacks."""

import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import reference
import torch
import torch.distributed.checkpoint as dcp
from dcp_jobs import FAMILIES, modes
from folders import tree
from safetensors import safe_open
from safetensors.torch import save_file

import streamconv
from streamconv.errors import BadCheckpoint, UsageError, VerifyFailed
from streamconv.execution.transpose import Panel

Tensors = dict[str, torch.Tensor]


def save(folder: Path, state: Tensors, prefix: str = "") -> Path:
    """As a training run saves its model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = {f"{prefix}{name}": tensor for name, tensor in state.items()}
        dcp.save({"model": model, "iteration": 3}, checkpoint_id=folder, no_dist=True)
    return folder


@pytest.fixture(scope="module")
def omni(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.qwen3_omni_moe(tmp_path_factory.mktemp("omni") / "hub")


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_hub_checkpoint_comes_back_whole(tmp_path: Path, model_type: str) -> None:
    """Tensors, config and every other file, as MindSpeed-MM would have it."""
    source = FAMILIES[model_type](tmp_path / "hub")
    streamconv.merge(source, tmp_path / "dcp", preset="mindspeed")
    streamconv.split(tmp_path / "dcp", tmp_path / "back", template=source, preset="mindspeed")
    original = reference.read(source)
    assert reference.same_bytes(reference.read(tmp_path / "back"), original) == []
    before, after = tree(source), tree(tmp_path / "back")
    weights = {name for name in before if name.endswith((".safetensors", ".index.json"))}
    assert {n: after.get(n) for n in before.keys() - weights} == {
        n: before[n] for n in before.keys() - weights
    }
    assert set(modes(tmp_path / "back").values()) == {0o750, 0o640}


def test_untrained_tensors_are_missing_or_filled(tmp_path: Path, omni: Path) -> None:
    """A thinker alone, its names and bytes changed by training; the rest as it was."""
    original = reference.read(omni)
    trained = {
        name: torch.full_like(t, 0.5) if name.startswith("thinker.") else t
        for name, t in original.items()
    }
    thinker = {n: t for n, t in trained.items() if n.startswith("thinker.")}
    state = reference.merge_mindspeed(thinker, "qwen3_omni_moe")
    run = save(tmp_path / "dcp", state, "model.")
    with pytest.raises(BadCheckpoint, match=r"lacks .* of its tensors: .*talker\.") as caught:
        streamconv.split(run, tmp_path / "back", template=omni, dcp_prefix="model.")
    assert "--fill-from-template" in caught.value.hint
    assert not (tmp_path / "back").exists()
    done = streamconv.split(
        run, tmp_path / "back", template=omni, dcp_prefix="model.", fill_from_template=True
    )
    assert reference.same_bytes(reference.read(tmp_path / "back"), trained) == []
    template = done.plan.checkpoint.template
    assert template is not None
    assert len(template.filled) == len(original) - len(thinker)


def test_the_plan_says_what_is_filled(tmp_path: Path, omni: Path) -> None:
    """In the table and in JSON."""
    thinker = {n: t for n, t in reference.read(omni).items() if n.startswith("thinker.")}
    save(tmp_path / "dcp", reference.merge_mindspeed(thinker, "qwen3_omni_moe"))
    command = ["split", "dcp", "back", "--template", str(omni), "--fill-from-template", "-n"]
    shown = {}
    for extra in ([], ["--json"]):
        done = subprocess.run(
            [sys.executable, "-m", "streamconv", *command, *extra],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        shown[bool(extra)] = done.stdout
    fields = json.loads(shown[True])
    count = len(reference.read(omni)) - len(thinker)
    assert fields["source"]["template"]["tensors"] == count
    assert f"{count:,} tensors" in " ".join(shown[False].split())
    assert "1 value of the training run, not of the model" in " ".join(shown[False].split())


def test_a_wrong_prefix_is_never_filled_over(tmp_path: Path, omni: Path) -> None:
    """Otherwise the untrained weights would come back as if nothing had been trained."""
    state = reference.merge_mindspeed(reference.read(omni), "qwen3_omni_moe")
    run = save(tmp_path / "dcp", state, "net.")
    with pytest.raises(BadCheckpoint, match="the template does not know net") as caught:
        streamconv.split(run, tmp_path / "back", template=omni, fill_from_template=True)
    assert "--dcp-prefix" in caught.value.hint


def wider(state: Tensors) -> None:
    name = next(name for name in state if name.endswith("lm_head.weight"))
    state[name] = torch.zeros(1 + len(state[name]), state[name].shape[1], dtype=torch.bfloat16)


def typed(state: Tensors) -> None:
    name = next(name for name in state if name.endswith("lm_head.weight"))
    state[name] = state[name].float()


def fewer(state: Tensors) -> None:
    for name in [name for name in state if ".experts." in name]:
        state[name] = state[name][:-1]


@pytest.mark.parametrize("change", [wider, typed, fewer])
def test_another_model_is_refused(tmp_path: Path, change: Callable[[Tensors], None]) -> None:
    """With the first tensor that differs from the template."""
    source = checkpoints.qwen3_moe(tmp_path / "hub")
    state = reference.to_layout(reference.read(source), "fused")
    change(state)
    run = save(tmp_path / "dcp", state)
    with pytest.raises(BadCheckpoint, match=r"in the template|config\.json says"):
        streamconv.split(run, tmp_path / "back", template=source)


def test_other_dtypes_where_they_are_cast(tmp_path: Path) -> None:
    """A run in float32 comes back in the template's."""
    source = checkpoints.qwen3_moe(tmp_path / "hub")
    original = reference.read(source)
    finite = {n: t.nan_to_num(0.25).abs() for n, t in original.items()}
    state = {n: t.float() for n, t in reference.to_layout(finite, "fused").items()}
    run = save(tmp_path / "dcp", state)
    streamconv.split(run, tmp_path / "back", template=source, dtype="bf16", cast_all=True)
    assert reference.same_bytes(reference.read(tmp_path / "back"), finite) == []


def test_another_layout_than_the_templates(tmp_path: Path, omni: Path) -> None:
    """What is filled is converted like the rest."""
    original = reference.read(omni)
    thinker = {n: t for n, t in original.items() if n.startswith("thinker.")}
    run = save(tmp_path / "dcp", reference.merge_mindspeed(thinker, "qwen3_omni_moe"))
    options: dict[str, Any] = {"template": omni, "fill_from_template": True}
    streamconv.convert(run, tmp_path / "made", to="transformers", **options)
    streamconv.convert(omni, tmp_path / "wanted", to="transformers")
    found, wanted = (reference.read(tmp_path / name) for name in ("made", "wanted"))
    assert reference.same_bytes(found, wanted) == []


def test_a_template_is_needed_to_fill(tmp_path: Path, omni: Path) -> None:
    """And has to be a checkpoint."""
    run = save(tmp_path / "dcp", reference.read(omni))
    with pytest.raises(UsageError, match="cannot fill from a template"):
        streamconv.split(run, tmp_path / "back", fill_from_template=True)
    with pytest.raises(BadCheckpoint, match="does not exist"):
        streamconv.split(run, tmp_path / "back", template=tmp_path / "nowhere")
    shutil.rmtree(run)


@pytest.fixture
def thinker(tmp_path: Path, omni: Path) -> Path:
    """What a run that trained the thinker alone has left."""
    tensors = {n: t for n, t in reference.read(omni).items() if n.startswith("thinker.")}
    return save(tmp_path / "dcp", reference.merge_mindspeed(tensors, "qwen3_omni_moe"))


def flip(path: Path, name: str) -> None:
    """The lowest bit of a tensor's first byte, by safetensors' own parser."""
    with safe_open(path, "pt") as file:
        first = bytes(file.get_tensor(name).reshape(-1).view(torch.uint8)[:64].tolist())
    raw = bytearray(path.read_bytes())
    assert raw.count(first) == 1
    raw[raw.index(first)] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize("to", ["hub", "transformers"])
def test_each_tensor_is_verified_against_its_origin(
    tmp_path: Path, omni: Path, thinker: Path, to: str
) -> None:
    """The trained ones against the DCP, what was filled in and the files against the template."""
    options: Any = {"template": omni, "fill_from_template": True}
    done = streamconv.convert(thinker, tmp_path / "back", to=to, verify=True, **options)
    assert done.verification is not None
    assert (done.verification.differences, done.verification.unchecked) == ((), ())
    (shard,) = (tmp_path / "back").glob("*.safetensors")
    names = reference.read(tmp_path / "back")
    trained = next(n for n in names if n.endswith("embed_tokens.weight") and "talker" not in n)
    filled = next(n for n in names if n.startswith("talker.") and n.endswith("mlp.gate.weight"))
    for name in (trained, filled):
        flip(shard, name)
    (tmp_path / "back" / "tokenizer.json").write_bytes(b"{}")
    found = streamconv.verify(thinker, tmp_path / "back", **options)
    assert {d.subject for d in found.differences} == {trained, filled, "tokenizer.json"}


def test_a_wrong_conversion_with_a_template_is_found(
    tmp_path: Path, omni: Path, thinker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the result is committed, and with a hint."""
    write = Panel.write_into

    def wrong(self: Panel, out: memoryview) -> None:
        write(self, out)
        out[0] ^= 1

    monkeypatch.setattr(Panel, "write_into", wrong)
    options: Any = {"template": omni, "fill_from_template": True}
    with pytest.raises(VerifyFailed, match="expert") as caught:
        streamconv.split(thinker, tmp_path / "back", verify=True, **options)
    assert "with the same --template" in caught.value.hint
    assert not (tmp_path / "back").exists()
    found = streamconv.verify(thinker, tmp_path / "back.streamconv-partial", **options)
    assert found.differences
    assert all(difference.subject.startswith("thinker.") for difference in found.differences)


def test_missing_tensors_of_the_template_are_found(
    tmp_path: Path, omni: Path, thinker: Path
) -> None:
    """A result without the talker is not the conversion of a run with its template."""
    alone = shutil.copytree(omni, tmp_path / "alone", ignore=shutil.ignore_patterns("model*"))
    kept = {n: t for n, t in reference.read(omni).items() if not n.startswith("talker.")}
    save_file(kept, alone / "model.safetensors")
    options: Any = {"template": omni, "fill_from_template": True}
    found = streamconv.verify(thinker, alone, **options)
    assert {d.subject.partition(".")[0] for d in found.differences} == {"talker"}
    assert {d.detail.partition(":")[0] for d in found.differences} >= {"is missing"}
    with pytest.raises(BadCheckpoint, match="lacks"):
        streamconv.verify(thinker, alone, template=omni)
    with pytest.raises(UsageError, match="with a template"):
        streamconv.verify(alone, template=omni)


def test_a_cast_one_is_verified(tmp_path: Path) -> None:
    """By the casts that the output says were made; the template's dtypes are not the run's."""
    source = checkpoints.qwen3_moe(tmp_path / "hub")
    finite = {n: t.nan_to_num(0.25).abs() for n, t in reference.read(source).items()}
    state = {n: t.float() for n, t in reference.to_layout(finite, "fused").items()}
    run = save(tmp_path / "dcp", state)
    options: Any = {"template": source, "dtype": "bf16", "cast_all": True}
    done = streamconv.split(run, tmp_path / "back", verify=True, **options)
    assert done.verification is not None
    assert done.verification.ok
    assert streamconv.verify(run, tmp_path / "back", template=source).ok


def test_tensors_that_the_template_lacks_are_listed(tmp_path: Path) -> None:
    """With the plan and with the result; it is converted like the rest."""
    source = checkpoints.qwen3_moe(tmp_path / "hub")
    state = reference.to_layout(reference.read(source), "fused")
    added = {f"model.layers.{k}.lora_a.weight": torch.full((3,), k * 0.5) for k in range(2)}
    save(tmp_path / "dcp", state | added)
    command = [sys.executable, "-m", "streamconv", "split", "dcp", "back", "--template", "hub"]
    shown = {}
    for extra in (["-n"], ["-n", "--json"], ["--no-progress"]):
        done = subprocess.run(
            [*command, *extra], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        shown[extra[-1]] = done.stdout
    fields = json.loads(shown["--json"])
    assert fields["source"]["template"]["unknown"] == sorted(added)
    for text in (shown["-n"], fields["target"]["notes"][0], shown["--no-progress"]):
        line = " ".join(text.split())
        assert "converted although the template lacks them" in line
        assert "model.layers.*.lora_a.weight (2)" in line
    back = reference.read(tmp_path / "back")
    assert reference.same_bytes({n: back[n] for n in added}, added) == []
