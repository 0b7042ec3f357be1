"""Whether transformers would load a checkpoint: what `check` says, and what loading really does."""

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import jsonschema
import pytest
import torch
import transformers
from click.testing import CliRunner
from folders import qwen_tensors, write_checkpoint
from rich.console import Console
from safetensors.torch import load_file, save_file

import streamconv
from streamconv.cli import cli
from streamconv.errors import BadCheckpoint, PlanRefused
from streamconv.report.messages import loading_table

FAMILIES = [name for name in checkpoints.BUILDERS if name != "internvl_chat"]
SCHEMA = json.loads((Path(streamconv.__file__).parent / "report" / "schema.json").read_text())


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qwen3-MoE in one shard."""
    return checkpoints.qwen3_moe(tmp_path_factory.mktemp("qwen") / "it", shard_size="5MB")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("form", ["hub", "transformers"])
def test_what_transformers_loads_is_clean(family: str, form: str, tmp_path: Path) -> None:
    """One tensor an expert, which it merges itself, and its own form alike."""
    folder = checkpoints.BUILDERS[family](tmp_path / "hub")
    if form != "hub":
        streamconv.convert(folder, tmp_path / "converted", to=form)
        folder = tmp_path / "converted"
    found = streamconv.check(folder)
    assert found.is_clean, found
    assert found.keys > 20


def edited(source: Path, target: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    """A copy of a checkpoint of one shard with other tensors."""
    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    edit(tensors)
    save_file(tensors, target / "model.safetensors")
    return target


NORM, PROJECTION = "model.norm.weight", "model.layers.0.self_attn.q_proj.weight"
EXPERT = "model.layers.1.mlp.experts.3.up_proj.weight"


def really(folder: Path) -> dict[str, Any]:
    """What loading for real reports."""
    _, info = transformers.Qwen3MoeForCausalLM.from_pretrained(
        folder, output_loading_info=True, ignore_mismatched_sizes=True
    )
    return dict(info)


@pytest.mark.parametrize(
    ("edit", "missing", "unexpected", "mismatched"),
    [
        (lambda t: t.pop(NORM), (NORM,), (), ()),
        (lambda t: t.update(extra=torch.ones(3)), (), ("extra",), ()),
        (lambda t: t.update({PROJECTION: torch.ones(3, 4)}), (), (), (PROJECTION,)),
        (lambda t: t.update({f"{NORM}s": t.pop(NORM)}), (NORM,), (f"{NORM}s",), ()),
    ],
    ids=["missing", "unexpected", "mismatched", "misspelt"],
)
def test_damage_is_named_as_a_real_load_names_it(
    qwen: Path,
    tmp_path: Path,
    edit: Callable[[dict[str, torch.Tensor]], object],
    missing: tuple[str, ...],
    unexpected: tuple[str, ...],
    mismatched: tuple[str, ...],
) -> None:
    """The keys of each kind, and the shapes of what does not fit."""
    folder = edited(qwen, tmp_path / "damaged", edit)
    found = streamconv.check(folder)
    assert not found.is_clean
    assert (found.missing, found.unexpected) == (missing, unexpected)
    assert found.mismatched == tuple((key, (3, 4), (32, 48)) for key in mismatched)
    real = really(folder)
    assert sorted(real["missing_keys"]) == list(missing)
    assert sorted(real["unexpected_keys"]) == list(unexpected)
    assert [key for key, *_ in real["mismatched_keys"]] == list(mismatched)


def test_a_missing_expert_is_named(qwen: Path, tmp_path: Path) -> None:
    """The key that cannot be made, and the tensor that it would need."""
    found = streamconv.check(edited(qwen, tmp_path / "damaged", lambda t: t.pop(EXPERT)))
    ((key, why),) = found.failed
    assert key == "model.layers.1.mlp.experts.gate_up_proj"
    assert "12" in why
    assert "11" in why
    assert f"tensor {EXPERT} is missing" in found.damage
    assert found.missing == ()


def test_another_layout_is_a_mismatch(qwen: Path, tmp_path: Path) -> None:
    """Under the same names; the error has both shapes."""
    streamconv.convert(qwen, tmp_path / "out", to="fused-transposed")
    found = streamconv.check(tmp_path / "out")
    wrong = {key: shapes for key, *shapes in found.mismatched}
    assert wrong["model.layers.1.mlp.experts.gate_up_proj"] == [(12, 48, 42), (12, 42, 48)]
    assert len(wrong) == 4


def test_quantized_weights_want_their_scales(qwen: Path, tmp_path: Path) -> None:
    """As config.json says; what is dequantized loads when it no longer says so."""
    aligned = checkpoints.qwen3_moe(tmp_path / "aligned", hidden=48, intermediate=32)
    checkpoints.quantized(aligned, tmp_path / "fp8")
    assert streamconv.check(tmp_path / "fp8").is_clean
    streamconv.merge(tmp_path / "fp8", tmp_path / "kept", dequantize="bf16", keep_config=True)
    found = streamconv.check(tmp_path / "kept")
    assert "model.layers.0.mlp.experts.gate_up_proj_scale_inv" in found.missing
    streamconv.merge(tmp_path / "fp8", tmp_path / "plain", dequantize="bf16")
    assert streamconv.check(tmp_path / "plain").is_clean


def with_config(folder: Path, **config: object) -> Path:
    return write_checkpoint(folder, {"a.safetensors": qwen_tensors()}, config)


@pytest.mark.parametrize("model_type", ["kimi_k2_of_tomorrow", None, 3])
def test_a_model_type_that_transformers_does_not_know(model_type: object, tmp_path: Path) -> None:
    """Nothing that the checkpoint brings along is run."""
    auto_map = {"AutoConfig": "code.Config", "AutoModel": "code.Model"}
    folder = with_config(tmp_path / "it", model_type=model_type, auto_map=auto_map)
    (folder / "code.py").write_text("raise SystemExit('code was run')")
    with pytest.raises(PlanRefused, match=r"does not know|names no") as caught:
        streamconv.check(folder)
    assert caught.value.hint


@pytest.mark.parametrize(
    "config", [{"hidden_size": "wide"}, {"num_hidden_layers": -1.5}, {"num_attention_heads": 0}]
)
def test_a_config_that_makes_no_model(config: dict[str, Any], tmp_path: Path) -> None:
    """One line, that names config.json."""
    folder = with_config(tmp_path / "it", model_type="qwen3_moe", **config)
    with pytest.raises(BadCheckpoint, match=r"config\.json: ") as error:
        streamconv.check(folder)
    assert "\n" not in error.value.message


@pytest.mark.parametrize("names", [7, True, 1.5, "Qwen3MoeForCausalLM", {"a": 1}, [[]], [None]])
def test_names_of_classes_that_are_none(qwen: Path, names: object, tmp_path: Path) -> None:
    """Are ignored: the model type names the class."""
    shutil.copytree(qwen, tmp_path / "it")
    config = json.loads((qwen / "config.json").read_text())
    (tmp_path / "it" / "config.json").write_text(json.dumps({**config, "architectures": names}))
    found = streamconv.check(tmp_path / "it")
    assert (found.model, found.is_clean) == ("Qwen3MoeForCausalLM", True)


def test_packages_that_cannot_be_imported(qwen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an update of only some of them: a line that says which, and how to mend it."""
    with monkeypatch.context() as broken:
        broken.setitem(sys.modules, "transformers.quantizers.auto", None)
        with pytest.raises(PlanRefused, match=r"cannot be imported: .*quantizers\.auto") as caught:
            streamconv.check(qwen)
    assert "pip install" in caught.value.hint
    with monkeypatch.context() as broken:
        name = "transformers.models.qwen3_moe.modeling_qwen3_moe"
        broken.setitem(sys.modules, name, None)
        package = sys.modules["transformers.models.qwen3_moe"]
        for module in (sys.modules["transformers"], package):  # each keeps what it once imported
            broken.delitem(vars(module), "Qwen3MoeForCausalLM", raising=False)
        broken.delitem(vars(package), "modeling_qwen3_moe", raising=False)
        with pytest.raises(PlanRefused, match="cannot import the model: ") as caught:
            streamconv.check(qwen)
    assert "pip install" in caught.value.hint


def test_the_command_line(qwen: Path, tmp_path: Path) -> None:
    """0 where it would load, 5 where not, and JSON of the schema."""
    clean = CliRunner().invoke(cli, ["check", str(qwen)])
    assert (clean.exit_code, clean.stderr) == (0, "")
    assert "cleanly" in clean.stdout
    damaged = edited(qwen, tmp_path / "damaged", lambda t: (t.pop(NORM), t.pop(EXPERT)))
    line = [sys.executable, "-m", "streamconv", "check", str(damaged), "--json"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert "would not load cleanly" in done.stderr
    fields = json.loads(done.stdout)
    jsonschema.validate(fields, SCHEMA)
    assert (fields["clean"], fields["missing"]) == (False, [NORM])


def test_what_is_shown(qwen: Path, tmp_path: Path) -> None:
    """Every kind of trouble, and of many keys the first."""
    many = {f"extra.{k}": torch.ones(1) for k in range(30)}
    damaged = edited(
        qwen, tmp_path / "damaged", lambda t: (t.pop(NORM), t.pop(EXPERT), t.update(many))
    )
    console = Console(width=250, record=True, file=io.StringIO())
    console.print(loading_table("here", streamconv.check(damaged)))
    shown = console.export_text()
    for text in (NORM, EXPERT, "extra.1\n", "10 more", "experts.gate_up_proj: RuntimeError"):
        assert text in shown
