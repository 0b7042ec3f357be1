"""Whole conversions that quantize: from any layout, equal to torch and compressed-tensors."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import quantizers
import reference
import torch
from click.testing import CliRunner
from header_models import BITS
from plain_layers import E, H, I, plain_tensors, write
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.integrations.finegrained_fp8 import Fp8Dequantize

import streamconv
from streamconv.cli import cli
from streamconv.sources.base import Read
from streamconv.sources.wrappers.cast import CastSource

KINDS = list(quantizers.QUANTIZERS)
MERGED = ["fused", "fused-transposed", "fused-flat", "stacked", "fused-interleaved"]


def is_quantized(name: str) -> bool:
    return "_proj" in name


def quantized(tensors: reference.Tensors, kind: str) -> reference.Tensors:
    """The tensors with experts and attention as another library quantizes them."""
    made: reference.Tensors = {}
    for name, tensor in tensors.items():
        if not is_quantized(name):
            made[name] = tensor
            continue
        parts = quantizers.QUANTIZERS[kind](tensor)
        made |= {name.removesuffix(".weight") + end: part for end, part in parts.items()}
    return made


def asked(kind: str) -> dict[str, Any]:
    name, _, scale = kind.partition(" ")
    return {"quantize": name, "scale": scale or None}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("plain") / "source", plain_tensors())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_one_by_one(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = plain_tensors(dtype)
    source = write(tmp_path / "source", tensors)
    streamconv.convert(source, tmp_path / "out", to="per-expert", verify=True, **asked(kind))
    found = reference.read(tmp_path / "out")
    assert reference.same_bytes(found, quantized(tensors, kind)) == []


@pytest.mark.parametrize("kind", KINDS)
def test_each_weight_is_read_once(
    kind: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its codes come right before its scales, which are made with them; all are aligned."""
    counted: list[int] = []
    read = CastSource.read

    def noting(self: CastSource, reads: Sequence[Read]) -> None:
        counted.extend(len(each.buffer) for each in reads)
        read(self, reads)

    monkeypatch.setattr(CastSource, "read", noting)
    result = streamconv.convert(source, tmp_path / "out", to="per-expert", jobs=1, **asked(kind))
    assert sum(counted) == sum(t.nbytes for t in plain_tensors().values())
    (file,) = result.path.glob("*.safetensors")
    raw = file.read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    header.pop("__metadata__")
    for name, entry in header.items():
        assert entry["data_offsets"][0] % (BITS.get(entry["dtype"], 8) // 8) == 0, name


@pytest.mark.parametrize("layout", MERGED)
@pytest.mark.parametrize("kind", ["fp8-block", "int4-g32"])
def test_merged_experts_are_quantized_one_by_one(kind: str, layout: str, tmp_path: Path) -> None:
    """A block never spans gate and up, and groups are of inputs, wherever these are stored."""
    tensors = plain_tensors()
    source = write(tmp_path / "source", reference.to_layout(tensors, layout))
    options = {"source_layout": layout, **asked(kind)}
    streamconv.convert(source, tmp_path / "out", to="per-expert", verify=True, **options)
    found = reference.read(tmp_path / "out")
    assert reference.same_bytes(found, quantized(tensors, kind)) == []


def test_a_dcp_there_and_back(source: Path, tmp_path: Path) -> None:
    """Quantized into a DCP, and out of one."""
    streamconv.convert(source, tmp_path / "dcp", to="same", format="dcp")
    out = tmp_path / "out"
    wanted = quantized(plain_tensors(), "fp8-block")
    streamconv.convert(tmp_path / "dcp", out, to="per-expert", verify=True, quantize="fp8-block")
    assert reference.same_bytes(reference.read(out), wanted) == []
    made = tmp_path / "made"
    streamconv.convert(
        source, made, to="per-expert", format="dcp", quantize="fp8-block", verify=True
    )
    streamconv.convert(made, tmp_path / "back", to="same")
    wanted = quantized(plain_tensors(), "fp8-block")
    assert reference.same_bytes(reference.read(tmp_path / "back"), wanted) == []


def test_a_dequantized_weight_is_quantized_again(source: Path, tmp_path: Path) -> None:
    """In one pass, and refused without it, naming what is stored."""
    streamconv.convert(source, tmp_path / "fp8", to="per-expert", quantize="fp8-block")
    with pytest.raises(streamconv.PlanRefused, match=r"quantized already.*fp8-block") as refused:
        streamconv.plan(tmp_path / "fp8", to="per-expert", quantize="int4-g32")
    assert "--dequantize" in refused.value.hint
    both = {"dequantize": "bf16", "quantize": "int4-g32"}
    streamconv.convert(tmp_path / "fp8", tmp_path / "out", to="per-expert", verify=True, **both)
    streamconv.convert(tmp_path / "fp8", tmp_path / "bf16", to="per-expert", dequantize="bf16")
    wanted = quantized(reference.read(tmp_path / "bf16"), "int4-g32")
    assert reference.same_bytes(reference.read(tmp_path / "out"), wanted) == []
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["quantization_config"]["format"] == "pack-quantized"


@pytest.mark.parametrize(
    ("chosen", "kept"),
    [
        ({"only": "*.experts.*"}, r"self_attn"),
        ({"skip": ["*.self_attn.*"]}, r"self_attn"),
        ({"skip": ["model.layers.1.*"]}, r"layers\.1\."),
    ],
    ids=str,
)
def test_a_choice_of_weights(
    chosen: dict[str, Any], kept: str, source: Path, tmp_path: Path
) -> None:
    """The rest stays, config.json names its modules, and `verify` knows what was chosen."""
    out = tmp_path / "out"
    options = {"quantize": "fp8-block", **chosen}
    streamconv.convert(source, out, to="per-expert", verify=True, **options)
    tensors = plain_tensors()
    stays = {name: tensor for name, tensor in tensors.items() if re.search(kept, name)}
    wanted = {**quantized(tensors, "fp8-block"), **stays}
    wanted = {n: t for n, t in wanted.items() if n in stays or not re.search(kept, n)}
    assert reference.same_bytes(reference.read(out), wanted) == []
    section = json.loads((out / "config.json").read_text())["quantization_config"]
    modules = section["modules_to_not_convert"]
    assert any(re.search(kept, module) for module in modules)
    assert streamconv.verify(source, out).ok


def test_experts_that_stay_are_ignored_one_by_one(source: Path, tmp_path: Path) -> None:
    """compressed-tensors takes a name for that module alone, and a pattern for those inside."""
    from compressed_tensors.utils.match import match_name

    out = tmp_path / "out"
    streamconv.convert(source, out, to="per-expert", quantize="int4-g32", skip="*.experts.*")
    section = json.loads((out / "config.json").read_text())["quantization_config"]

    def is_ignored(module: str) -> bool:
        return any(match_name(module, each) for each in section["ignore"])

    found = reference.read(out)
    assert is_ignored("model.layers.1.mlp.experts.3.up_proj")
    assert not is_ignored("model.layers.1.self_attn.q_proj")
    plain = {n.removesuffix(".weight") for n, t in found.items() if n.endswith(".weight")}
    matrices = {name for name in plain if found[f"{name}.weight"].ndim == 2}
    assert [name for name in matrices if not is_ignored(name)] == []


@pytest.mark.parametrize("kind", ["fp8-block", "fp8-channel"])
def test_projections_that_stay_are_ignored_without_the_others(
    kind: str, source: Path, tmp_path: Path
) -> None:
    """A loader would take the codes of an ignored module for its weights."""
    from compressed_tensors.utils.match import match_name

    out = tmp_path / "out"
    result = streamconv.convert(
        source, out, to="per-expert", verify=True, quantize=kind, skip="*.experts.*.down_proj.*"
    )
    notes = [note for note in result.plan.config.notes if "some projections of" in note]
    assert [("*.mlp.experts" in note) for note in notes] == [True] * (kind == "fp8-block")
    section = json.loads((out / "config.json").read_text())["quantization_config"]
    ignored = section.get("ignore", section.get("modules_to_not_convert"))
    for number in range(E):
        for name in ("gate", "up", "down"):
            module = f"model.layers.1.mlp.experts.{number}.{name}_proj"
            assert any(match_name(module, each) for each in ignored) == (name == "down")
    assert "model.layers.1.mlp.experts" not in ignored


def test_what_is_asked_for_by_name_is_quantized(source: Path, tmp_path: Path) -> None:
    """A head is quantized only if a pattern fits it and nothing else."""
    streamconv.convert(source, tmp_path / "out", to="same", quantize="fp8-block", only="lm_head*")
    found = reference.read(tmp_path / "out")
    assert {n for n, t in found.items() if t.dtype == torch.float8_e4m3fn} == {"lm_head.weight"}
    with pytest.raises(streamconv.PlanRefused, match="--only nothing: no matrix"):
        streamconv.plan(source, to="per-expert", quantize="fp8-block", only="nothing")


def test_lazily(source: Path, tmp_path: Path) -> None:
    """Slices of codes and scales, without a file."""
    wanted = quantized(plain_tensors(), "int4-g32")
    name = "model.layers.1.mlp.experts.3.up_proj.weight_packed"
    with streamconv.open(source, quantize="int4-g32") as opened:
        assert np.array_equal(opened[name][10:70, 3:9], wanted[name].numpy()[10:70, 3:9])
        shape = name.replace("_packed", "_shape")
        assert opened[shape][:].tolist() == [I, H]


@pytest.mark.parametrize("layout", ["per-expert", "fused-transposed"])
def test_not_a_number_is_an_error_that_names_it(layout: str, tmp_path: Path) -> None:
    tensors = plain_tensors()
    tensors["model.layers.1.mlp.experts.4.up_proj.weight"][17, 33] = float("nan")
    source = write(tmp_path / "source", reference.to_layout(tensors, layout))
    with pytest.raises(streamconv.BadCheckpoint, match=r"\[17, 33\] is nan") as error:
        streamconv.convert(
            source, tmp_path / "out", to="per-expert", source_layout=layout, quantize="int4-g32"
        )
    stored = "experts.4.up_proj" if layout == "per-expert" else "experts.gate_up_proj"
    assert stored in error.value.message
    assert not (tmp_path / "out").exists()


def test_columns_that_are_no_whole_groups(tmp_path: Path) -> None:
    """Of an expert they are refused; another weight stays as it is, with a note."""
    tensors = plain_tensors()
    odd = "model.layers.0.self_attn.q_proj.weight"
    tensors[odd] = torch.randn(H, H - 3).bfloat16()
    source = write(tmp_path / "source", tensors)
    plan = streamconv.plan(source, to="per-expert", quantize="int4-g32")
    assert any("not quantized" in note and "157 columns" in note for note in plan.config.notes)
    streamconv.convert(source, tmp_path / "out", to="per-expert", quantize="int4-g32", verify=True)
    assert reference.read(tmp_path / "out")[odd].dtype == torch.bfloat16
    narrow = {
        n: t[..., :-1].contiguous() if "down_proj" in n else t[:-1] if "experts" in n else t
        for n, t in tensors.items()
    }
    source = write(tmp_path / "narrow", narrow)
    with pytest.raises(streamconv.PlanRefused, match=r"95 columns.*groups of 32"):
        streamconv.plan(source, to="per-expert", quantize="int4-g32")


def test_a_merged_form_is_refused_and_a_layout_has_a_warning(tmp_path: Path) -> None:
    tensors = {n: t for n, t in plain_tensors().items() if "experts" in n or "gate" in n}
    source = write(tmp_path / "source", tensors, model_type="qwen3_moe")
    with pytest.raises(streamconv.PlanRefused, match="become fp8-block") as refused:
        streamconv.plan(source, quantize="fp8-block")
    assert "--to per-expert" in refused.value.hint
    plan = streamconv.plan(source, to="fused", quantize="fp8-channel")
    assert any("become fp8-channel and fused" in warning for warning in plan.target.warnings)
    merged = write(tmp_path / "merged", reference.to_layout(tensors, "fused"))
    with pytest.raises(streamconv.PlanRefused, match="one by one"):
        streamconv.plan(merged, to="same", quantize="fp8-block")


def test_what_transformers_decodes_in_other_blocks_is_named(source: Path) -> None:
    """It cuts 160 rows into two blocks of 80 if there is no GPU, and 96 twice into 128 and 64."""
    weight = plain_tensors()["model.layers.0.self_attn.q_proj.weight"]
    made = quantizers.fp8_block(weight)
    loaded = Fp8Dequantize(None)._dequantize_one(
        made[".weight"], made[".weight_scale_inv"], output_dtype=torch.float32
    )
    assert not loaded.equal(quantizers.decoded("fp8-block", made))
    notes = streamconv.plan(source, to="per-expert", quantize="fp8-block").config.notes
    (note,) = [note for note in notes if "end inside a block" in note]
    assert "self_attn.q_proj.weight (2)" in note
    assert "gate_proj.weight (10)" in note
    assert streamconv.plan(source, to="per-expert", quantize="mxfp4").config.notes == ()


@pytest.mark.parametrize("model_type", ["gpt_oss", "qwen3_vl_moe"])
def test_experts_that_load_merged_only_have_a_warning(model_type: str, tmp_path: Path) -> None:
    """transformers has no conversion that would merge single experts of these models."""
    found = get_checkpoint_conversion_mapping(model_type) or []
    patterns = [pattern for each in found for pattern in each.source_patterns]
    assert not any("experts" in pattern and "*" in pattern for pattern in patterns)
    layer = "language_model.layers" if model_type == "qwen3_vl_moe" else "layers"
    layout = "fused-transposed" if model_type == "qwen3_vl_moe" else "fused-interleaved"
    tensors = {n.replace("layers", layer): t for n, t in plain_tensors().items() if "mlp" in n}
    merged = reference.to_layout(tensors, layout)
    counts = {"num_local_experts": E, "text_config": {"num_experts": E}}
    source = write(tmp_path / "source", merged, model_type=model_type, **counts)
    options: dict[str, Any] = {"source_layout": layout, "quantize": "fp8-channel"}
    plan = streamconv.plan(source, to="per-expert", **options)
    (warning,) = plan.target.warnings
    assert "become fp8-channel and per-expert" in warning
    assert "of this model type merged only" in warning
    with pytest.raises(streamconv.PlanRefused, match="one by one") as refused:
        streamconv.plan(source, to="same", **options)
    assert refused.value.hint.endswith("--to per-expert")


def test_options_that_make_no_sense(source: Path) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"quantize": "int3"}, "no such format"),
        ({"quantize": "int4-g32", "scale": "ue8m0"}, "no such scales"),
        ({"scale": "ue8m0"}, "there is none"),
        ({"quantize": "mxfp4", "dequantize": "bf16", "only": "*"}, "both"),
    ]
    for options, message in wrong:
        with pytest.raises(streamconv.UsageError, match=message):
            streamconv.plan(source, to="per-expert", **options)


def test_the_command_line(source: Path, tmp_path: Path) -> None:
    """A dry run says what is quantized and what config.json says then; JSON too."""
    words = ["convert", str(source), str(tmp_path / "out"), "--to", "per-expert"]
    words += ["--quantize", "fp8-block", "--scale", "ue8m0"]
    shown = CliRunner().invoke(cli, [*words, "-n"], terminal_width=200)
    assert shown.exit_code == 0, shown.output
    assert "quantized (fp8-block)" in shown.output
    assert "quantization_config is added: fp8" in " ".join(shown.output.split())
    done = CliRunner().invoke(cli, [*words, "-n", "--json"])
    casts = json.loads(done.stdout)["target"]["casts"]
    assert {(row["format"], row["quantized"], row["to"]) for row in casts} == {
        ("fp8-block", True, "F8_E4M3"),
        ("fp8-block", True, "F8_E8M0"),
    }
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("old", ["top", "nested"])
def test_a_stale_description_is_replaced(old: str, tmp_path: Path) -> None:
    """Wherever it is; files that describe quantized weights stay behind."""
    stale = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [64, 64]}}
    config: dict[str, Any] = stale if old == "top" else {"text_config": {**stale, "a": 1}}
    source = write(tmp_path / "source", plain_tensors(), **config)
    (source / "hf_quant_config.json").write_text("{}")
    streamconv.convert(source, tmp_path / "out", to="per-expert", quantize="mxfp4", verify=True)
    written = json.loads((tmp_path / "out/config.json").read_text())
    assert written["quantization_config"]["format"] == "mxfp4-pack-quantized"
    assert written.get("text_config", {"a": 1}) == {"a": 1}
    assert not (tmp_path / "out/hf_quant_config.json").exists()


def test_verify_finds_a_wrong_code_scale_and_description(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    streamconv.convert(source, out, to="per-expert", quantize="fp8-block")
    good = (out / "model.safetensors").read_bytes()
    stored = reference.read(out)
    for name in ("q_proj.weight", "q_proj.weight_scale_inv"):
        whole = f"model.layers.0.self_attn.{name}"
        raw = stored[whole].view(torch.uint8).numpy().tobytes()
        at = good.index(raw)
        bad = bytearray(good)
        bad[at] ^= 1
        (out / "model.safetensors").write_bytes(bad)
        found = streamconv.verify(source, out)
        assert [d.subject for d in found.differences] == [whole]
    (out / "model.safetensors").write_bytes(good)
    text = (out / "config.json").read_text()
    (out / "config.json").write_text(text.replace('"lm_head"', '"lm_tail"'))
    assert [d.subject for d in streamconv.verify(source, out).differences] == ["config.json"]


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("fp8-block", '"fp8"', '"fbgemm_fp8"'),
        ("fp8-block", "128", "64"),
        ("int4-g32", '"group_size": 32', '"group_size": 64'),
        ("int4-g32", '"num_bits": 4', '"num_bits": 8'),
        ("mxfp4", '"lm_head"', '"lm_head", "model.layers.0.self_attn.q_proj"'),
        ("mxfp4", '"lm_head"', '"re:.*"'),
        ("fp8-channel", '"channel"', '"tensor"'),
    ],
)
def test_verify_finds_a_description_that_is_not_true(
    kind: str, good: str, bad: str, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    streamconv.convert(source, out, to="per-expert", quantize=kind)
    assert streamconv.verify(source, out).ok
    text = (out / "config.json").read_text()
    assert good in text
    (out / "config.json").write_text(text.replace(good, bad, 1))
    (found,) = streamconv.verify(source, out).differences
    assert (found.subject, "quantization_config" in found.detail) == ("config.json", True)
