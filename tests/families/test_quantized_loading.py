"""What transformers loads of quantized experts on a CPU: values are compared, not names.

It loads them one by one, and finds no scales of merged ones. So a form is not what is merged.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import quantized
import reference
import torch
from click.testing import CliRunner
from quantized import Case
from safetensors.torch import save_file
from small_qwen import save_small_qwen
from transformers import AutoModelForCausalLM

import streamconv
from streamconv.cli import cli

MAKERS: dict[str, Callable[[int, int], Case]] = {
    "fp8-block": quantized.fp8_block,
    "fp8-channel": quantized.fp8_channel,
    "fp8-tensor": lambda o, i: quantized.fp8_tensor(o, i, (1,)),
    "mxfp8": quantized.mxfp8,
    "int4": quantized.packed_int,
    "mxfp4-bytes": quantized.mxfp4_bytes,
    "mxfp4-packed": quantized.mxfp4_packed,
}
DESCRIBED = ("fp8-block", "fp8-channel", "int4", "mxfp4-packed")
"""The formats whose experts a layout describes."""
DENSE = ["lm_head", "q_proj", "k_proj", "v_proj", "o_proj", "gate"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_qwen(tmp_path_factory.mktemp("plain"), layers=1)


@pytest.fixture(scope="module", params=MAKERS)
def experts(
    request: pytest.FixtureRequest, plain: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, reference.Tensors]:
    """The model with its experts in a number format, and what they mean as transformers has it."""
    folder = tmp_path_factory.mktemp(request.param) / "source"
    return request.param, *write(request.param, plain, folder)


def write(kind: str, plain: Path, folder: Path) -> tuple[Path, reference.Tensors]:
    """Write the model with its experts in a number format; return what they mean, merged."""
    torch.manual_seed(1)
    stored: reference.Tensors = {}
    meaning: reference.Tensors = {}
    section: dict[str, Any] = {}
    for name, tensor in reference.read(plain).items():
        stored[name] = meaning[name] = tensor
        if ".experts." in name:
            case = MAKERS[kind](*tensor.shape)
            del stored[name]
            stem = name.removesuffix(".weight")
            stored |= {f"{stem}{end}": t.contiguous() for end, t in case.tensors.items()}
            meaning[name] = case.decoded(torch.bfloat16)
            section = case.config["quantization_config"]
    if section["quant_method"] == "compressed-tensors":
        ignored = ["lm_head", "re:.*self_attn.*", "re:.*mlp.gate$"]
        section = {**section, "ignore": ignored, "quantization_status": "compressed"}
    else:
        section = {**section, "modules_to_not_convert": DENSE}
    folder.mkdir()
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((plain / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": section}))
    return folder, reference.to_layout(meaning, "fused")


def wrong_values(folder: Path, meaning: reference.Tensors) -> list[str]:
    """The tensors that transformers loads with other values."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    loaded = model.state_dict()
    return [n for n, t in meaning.items() if n not in loaded or not loaded[n].to(t.dtype).equal(t)]


def test_the_form_is_what_loads(
    experts: tuple[str, Path, reference.Tensors], tmp_path: Path
) -> None:
    """One by one they load; merged they do not, so that has to be asked for by its layout."""
    name, source, meaning = experts
    assert wrong_values(source, meaning) == []
    with pytest.raises(streamconv.PlanRefused, match=name) as refused:
        streamconv.merge(source, tmp_path / "merged")
    assert "--dequantize" in refused.value.hint
    if name in DESCRIBED:
        with pytest.raises(streamconv.PlanRefused, match="already in the form transformers"):
            streamconv.convert(source, tmp_path / "form", to="transformers")
        streamconv.convert(source, tmp_path / "form", to="transformers", copy=True)
        assert wrong_values(tmp_path / "form", meaning) == []


@pytest.mark.parametrize("kind", DESCRIBED)
def test_a_layout_is_made_with_a_warning(kind: str, plain: Path, tmp_path: Path) -> None:
    """The warning is true: what transformers loads of it is wrong. And the form comes back."""
    source, meaning = write(kind, plain, tmp_path / "source")
    done = CliRunner().invoke(
        cli, ["convert", str(source), str(tmp_path / "fused"), "--to", "fused", "--json"]
    )
    assert done.exit_code == 0, done.output
    notes = json.loads(done.stdout)["target"]["notes"]
    assert any(f"are stored as {kind} and become fused" in note for note in notes)
    wrong = wrong_values(tmp_path / "fused", meaning)
    assert wrong
    assert all(".experts." in name for name in wrong)
    streamconv.convert(tmp_path / "fused", tmp_path / "back", to="transformers")
    assert reference.same_bytes(reference.read(source), reference.read(tmp_path / "back")) == []
    assert wrong_values(tmp_path / "back", meaning) == []


def test_merged_values_load(experts: tuple[str, Path, reference.Tensors], tmp_path: Path) -> None:
    """Dequantized in the same pass."""
    _, source, meaning = experts
    streamconv.merge(source, tmp_path / "out", dequantize="bf16")
    config = json.loads((tmp_path / "out/config.json").read_text())
    config.pop("quantization_config", None)
    (tmp_path / "out/config.json").write_text(json.dumps(config))
    assert wrong_values(tmp_path / "out", meaning) == []
