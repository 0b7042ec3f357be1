"""config.json of a result tells the truth: loaded unedited, the model is the reference."""

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import quantized
import reference
import torch
import transformers
from config_folders import config_of, loaded, published, quantize, quantize_by
from dcp_folders import stock
from folders import tree
from rich.console import Console
from safetensors.torch import save_file

import streamconv
from streamconv.errors import BadCheckpoint, OutputExists, SourceChanged
from streamconv.execution.events import Event, PieceWritten, Prepared
from streamconv.planning.plan import Plan
from streamconv.report.plan_json import plan_fields, target_fields
from streamconv.report.plan_tables import plan_table

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
TYPES = ["qwen3", "qwen3_moe"]


@pytest.fixture(scope="module", params=TYPES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in bfloat16, with experts and without."""
    return published(tmp_path_factory.mktemp("model") / request.param, request.param)


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published(tmp_path_factory.mktemp("qwen3") / "model", "qwen3")


@pytest.fixture(scope="module")
def fp8(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The model in FP8, and the same numbers in bfloat16."""
    target = tmp_path_factory.mktemp("fp8") / "checkpoint"
    return target, quantize(model, target)


def assert_only(source: Path, out: Path, *changes: tuple[str, str]) -> None:
    """Check that config.json has these replacements of text, and is the same otherwise."""
    text = (source / "config.json").read_text()
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    assert (out / "config.json").read_text() == text


# --- casts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_a_cast_loads_in_its_dtype(model: Path, tmp_path: Path, dtype: str) -> None:
    """With the logits of the reference in it, and nothing else is changed."""
    out = tmp_path / "out"
    result = streamconv.convert(model, out, dtype=dtype, verify=True)
    logits, found = loaded(out)
    assert found == DTYPES[dtype]
    whole = transformers.AutoModelForCausalLM.from_pretrained(
        model, dtype=found, experts_implementation="eager"
    )
    with torch.no_grad():
        wanted = whole.eval()(torch.arange(3, 15).unsqueeze(0)).logits
    assert logits.equal(wanted)
    name = str(found).removeprefix("torch.")
    assert_only(model, out, ('"dtype": "bfloat16"', f'"dtype": "{name}"'))
    assert [edit.path for edit in result.plan.config.edits] == [("dtype",)]
    assert streamconv.check(out).is_clean
    assert (out / "generation_config.json").read_bytes() == (
        model / "generation_config.json"
    ).read_bytes()


@pytest.mark.parametrize("name", ["glm4v_moe", "qwen3_omni_moe"])
def test_every_section_has_its_dtype(name: str, tmp_path: Path) -> None:
    """Of a model that is made of several; loaded, all of it has the dtype and the values."""
    source = checkpoints.BUILDERS[name](tmp_path / "source")
    config = config_of(source)
    for section in (config, *list(config.values())):
        if isinstance(section, dict) and "model_type" in section:
            section["dtype"] = "bfloat16"
    text = json.dumps(config, indent=3)
    assert text.count('"dtype": "bfloat16"') > 2
    (source / "config.json").write_text(text)
    streamconv.convert(source, tmp_path / "out", to="transformers", dtype="fp32", verify=True)
    wanted = text.replace('"dtype": "bfloat16"', '"dtype": "float32"')
    assert (tmp_path / "out/config.json").read_text() == wanted
    held = checkpoints.in_memory(tmp_path / "out")
    original = checkpoints.in_memory(source)
    experts = [n for n in held if ".experts." in n]
    assert experts
    for each in experts:
        assert held[each].dtype == torch.float32
        assert torch.equal(held[each].nan_to_num(7), original[each].float().nan_to_num(7))


def test_the_older_name(qwen3: Path, tmp_path: Path) -> None:
    """`torch_dtype`, at the top and in a section, which a vision tower has for itself."""
    source = shutil.copytree(qwen3, tmp_path / "source")
    config = config_of(qwen3)
    del config["dtype"]
    config |= {
        "torch_dtype": "bfloat16",
        "vision_config": {"torch_dtype": "float32", "depth": 3},
        "audio_config": {"torch_dtype": None, "list": [{"dtype": "bfloat16"}]},
    }
    (source / "config.json").write_text(json.dumps(config))
    streamconv.convert(source, tmp_path / "out", dtype="fp32", verify=True)
    found = config_of(tmp_path / "out")
    assert found == {**config, "torch_dtype": "float32"}
    assert loaded(tmp_path / "out")[1] == torch.float32


def test_a_config_without_a_dtype(qwen3: Path, tmp_path: Path) -> None:
    """Nothing is untrue in it, so nothing is changed; transformers takes the tensors' dtype."""
    source = shutil.copytree(qwen3, tmp_path / "source")
    config = config_of(qwen3)
    del config["dtype"]
    (source / "config.json").write_text(json.dumps(config))
    result = streamconv.convert(source, tmp_path / "out", dtype="fp32", verify=True)
    assert result.plan.config.edits == ()
    assert_only(source, tmp_path / "out")
    assert loaded(tmp_path / "out")[1] == torch.float32


def test_no_config_at_all(tmp_path: Path) -> None:
    """Tensors alone are cast, too."""
    source = tmp_path / "source"
    source.mkdir()
    save_file({"a": torch.ones(3, dtype=torch.bfloat16)}, source / "model.safetensors")
    streamconv.convert(source, tmp_path / "out", dtype="fp32", verify=True)
    assert not (tmp_path / "out/config.json").exists()


def test_a_false_dtype_is_put_right(qwen3: Path, tmp_path: Path) -> None:
    """By asking for the dtype that the tensors have: only the config changes."""
    source = shutil.copytree(qwen3, tmp_path / "source")
    text = (source / "config.json").read_text()
    (source / "config.json").write_text(text.replace("bfloat16", "float16"))
    streamconv.convert(source, tmp_path / "out", dtype="bf16", verify=True)
    assert (tmp_path / "out/config.json").read_text() == text


def test_kept_as_it_is(qwen3: Path, tmp_path: Path) -> None:
    """`--keep-config`, which plan, manifest and verification know."""
    result = streamconv.convert(
        qwen3, tmp_path / "out", dtype="fp32", keep_config=True, verify=True
    )
    assert_only(qwen3, tmp_path / "out")
    assert result.plan.config.edits == ()
    manifest = json.loads((tmp_path / "out/streamconv.json").read_text())
    assert manifest["config"] is None
    assert streamconv.verify(qwen3, tmp_path / "out").ok


# --- dequantized -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_dequantized_loads_as_such(fp8: tuple[Path, Path], tmp_path: Path, dtype: str) -> None:
    """No quantization is left in config.json or next to it; the logits are the reference's."""
    source, plain = fp8
    result = streamconv.convert(source, tmp_path / "out", dequantize=dtype, verify=True)
    logits, found = loaded(tmp_path / "out")
    assert found == DTYPES[dtype]
    if dtype == "bf16":
        assert logits.equal(loaded(plain)[0])
        assert (tmp_path / "out/config.json").read_text() == json.dumps(config_of(plain), indent=2)
    assert not (tmp_path / "out/hf_quant_config.json").exists()
    assert "hf_quant_config.json" in {o.name for o in result.plan.others if o.skip_reason}
    # the config of the source lacks what its own quantized weights would need
    found = streamconv.check(tmp_path / "out")
    assert not any(".mlp." in key for key in (*found.missing, *found.unexpected))
    assert streamconv.verify(tmp_path / "out").ok
    manifest = json.loads((tmp_path / "out/streamconv.json").read_text())
    assert {"key": "quantization_config"} in manifest["config"]


def test_quantization_in_a_section(qwen3: Path, tmp_path: Path) -> None:
    """Removed where it is; its own keys are no dtypes of the model."""
    source = tmp_path / "fp8"
    quantize(qwen3, source)
    config = config_of(source)
    quantization = {"dtype": "float8_e4m3fn", **config.pop("quantization_config")}
    config["text_config"] = {"a": [1.50, {"b": 2}], "quantization_config": quantization}
    (source / "config.json").write_text(json.dumps(config))
    streamconv.convert(source, tmp_path / "cast", dtype="fp32", verify=True)
    text = (tmp_path / "cast/config.json").read_text()
    assert text == json.dumps({**config, "dtype": "float32"})
    streamconv.convert(source, tmp_path / "out", dequantize="bf16", verify=True)
    del config["text_config"]["quantization_config"]
    assert (tmp_path / "out/config.json").read_text() == json.dumps(config)


def test_a_dcp_records_the_new_config(fp8: tuple[Path, Path], tmp_path: Path) -> None:
    """Which is that of what it is converted to, and of torch's own tensors."""
    source, plain = fp8
    streamconv.convert(source, tmp_path / "dcp", dequantize="bf16", format="dcp", verify=True)
    assert {t.dtype for t in stock(tmp_path / "dcp").values()} <= {torch.bfloat16, torch.float32}
    found = streamconv.inspect(tmp_path / "dcp")
    assert found.checkpoint.config == config_of(plain)
    assert list(found.checkpoint.config) == list(config_of(plain))


def test_a_dcp_has_no_config_to_change(fp8: tuple[Path, Path]) -> None:
    """The plan does not speak of a file that is not written."""
    source, _ = fp8
    plan = streamconv.plan(source, to="same", dequantize="bf16")
    assert target_fields(plan)["config_edits"]
    plan = streamconv.plan(source, to="same", dequantize="bf16", format="dcp")
    assert target_fields(plan)["config_edits"] == []
    kept = streamconv.plan(source, to="same", dequantize="bf16", format="dcp", keep_config=True)
    assert not [note for note in target_fields(kept)["notes"] if "without this change" in note]


def shown(plan: Plan) -> str:
    """The plan as a command line prints it."""
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(plan_table(plan, None))
    return console.export_text()


@pytest.mark.parametrize("missing", [0, 5])
def test_a_dcp_next_to_a_quantized_template(
    fp8: tuple[Path, Path], tmp_path: Path, missing: int
) -> None:
    """Trained in bfloat16; what it lacks is dequantized, and the config of the template changed."""
    source, plain = fp8
    tensors = reference.read(plain)
    for name in [name for name in tensors if "self_attn" in name and "proj" in name][:missing]:
        del tensors[name]
    trained = tmp_path / "trained"
    trained.mkdir()
    save_file(tensors, trained / "model.safetensors", {"format": "pt"})
    (trained / "config.json").write_text((plain / "config.json").read_text())
    streamconv.convert(trained, tmp_path / "dcp", format="dcp")
    options: dict[str, Any] = {"template": source, "fill_from_template": bool(missing)}
    result = streamconv.convert(tmp_path / "dcp", tmp_path / "out", verify=True, **options)
    template = result.plan.checkpoint.template
    assert template is not None
    assert len(template.filled) == missing
    assert (f"{missing} tensors, F8_E4M3 times its scales" in shown(result.plan)) == bool(missing)
    assert bool(result.plan.memory.casts) == bool(missing)
    assert reference.same_bytes(reference.read(tmp_path / "out"), reference.read(plain)) == []
    assert (tmp_path / "out/config.json").read_text() == json.dumps(config_of(plain), indent=2)
    assert not (tmp_path / "out/hf_quant_config.json").exists()
    assert loaded(tmp_path / "out")[0].equal(loaded(plain)[0])
    assert streamconv.verify(tmp_path / "dcp", tmp_path / "out", **options).ok


FORMATS: dict[str, Callable[[int, int], quantized.Case]] = {
    "fp8 channels": quantized.fp8_channel,
    "int4": quantized.packed_int,
    "int8": quantized.int8,
    "gptq": quantized.gptq,
    "awq": quantized.awq,
    "mxfp4": quantized.mxfp4_packed,
    "nvfp4": quantized.nvfp4,
}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without experts whose matrices have whole groups of any format."""
    config = transformers.Qwen3Config(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=16,
    )
    folder = tmp_path_factory.mktemp("wide") / "model"
    torch.manual_seed(8)
    transformers.Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", FORMATS)
def test_no_format_is_left_in_the_config(wide: Path, tmp_path: Path, name: str) -> None:
    """Dequantized, the model loads as the one that was never quantized; from a DCP, too."""
    source = tmp_path / "source"
    plain = quantize_by(FORMATS[name], wide, source)
    streamconv.convert(source, tmp_path / "out", dequantize="bf16", verify=True)
    assert (tmp_path / "out/config.json").read_text() == (plain / "config.json").read_text()
    wanted = loaded(plain)[0]
    assert loaded(tmp_path / "out")[0].equal(wanted)
    streamconv.convert(plain, tmp_path / "dcp", format="dcp")
    streamconv.convert(tmp_path / "dcp", tmp_path / "back", template=source, verify=True)
    assert (tmp_path / "back/config.json").read_text() == (plain / "config.json").read_text()
    assert loaded(tmp_path / "back")[0].equal(wanted)


def test_what_is_dequantized_in_part_is_excepted(wide: Path, tmp_path: Path) -> None:
    """From the description that stays, so that the result loads with the values of the source."""
    source = tmp_path / "source"
    quantize_by(quantized.packed_int, wide, source)
    result = streamconv.convert(
        source, tmp_path / "out", dequantize="bf16", only=["*.mlp.*"], verify=True
    )
    assert result.plan.config.notes == ()
    before, after = (
        json.loads((p / "config.json").read_text()) for p in (source, tmp_path / "out")
    )
    sections = [config.pop("quantization_config") for config in (before, after)]
    lists = [section.pop("ignore", []) for section in sections]
    assert before == after
    assert sections[0] == sections[1]
    layers = range(before["num_hidden_layers"])
    projections = ("down_proj", "gate_proj", "up_proj")
    modules = [f"model.layers.{n}.mlp.{each}" for n in layers for each in projections]
    assert lists[1] == [*lists[0], *modules]
    # the config of the source lacks what its own quantized weights would need
    found = streamconv.check(tmp_path / "out")
    assert not any(".mlp." in key for key in (*found.missing, *found.unexpected))
    config = tmp_path / "out/config.json"
    for wrong in (modules[0], "model.layers.0.self_attn.q_proj"):
        config.write_text(
            json.dumps(
                {**after, "quantization_config": {**sections[1], "ignore": [*lists[0], wrong]}}
            )
        )
        differences = streamconv.verify(source, tmp_path / "out").differences
        assert any("which of its modules are dequantized" in each.detail for each in differences)


def test_a_quantized_config_in_the_folder_of_a_dcp(fp8: tuple[Path, Path], tmp_path: Path) -> None:
    """That of the checkpoint that training began with: the DCP is not quantized."""
    source, plain = fp8
    streamconv.convert(plain, tmp_path / "dcp", format="dcp")
    shutil.copy(source / "config.json", tmp_path / "dcp")
    shutil.copy(source / "hf_quant_config.json", tmp_path / "dcp")
    streamconv.convert(tmp_path / "dcp", tmp_path / "out", verify=True)
    assert config_of(tmp_path / "out") == config_of(plain)
    assert not (tmp_path / "out/hf_quant_config.json").exists()
    assert loaded(tmp_path / "out")[0].equal(loaded(plain)[0])


# --- layers ------------------------------------------------------------------------------------


def test_the_first_layers_load(model: Path, tmp_path: Path) -> None:
    """As a model of so many layers."""
    streamconv.convert(model, tmp_path / "out", layers="0:1", verify=True)
    config = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    assert config.num_hidden_layers == 1
    assert len(getattr(config, "layer_types", [None])) == 1
    loaded(tmp_path / "out")
    # the config of the source lacks what its own quantized weights would need
    found = streamconv.check(tmp_path / "out")
    assert not any(".mlp." in key for key in (*found.missing, *found.unexpected))
    again = streamconv.convert(tmp_path / "out", tmp_path / "again", layers="0:1", copy=True)
    assert again.plan.config.edits == ()


@pytest.mark.parametrize("layers", ["1", "1:2"])
def test_other_layers_do_not_load(model: Path, tmp_path: Path, layers: str) -> None:
    """The plan says so, and config.json stays."""
    result = streamconv.convert(model, tmp_path / "out", layers=layers, verify=True)
    assert_only(model, tmp_path / "out")
    (note,) = result.plan.config.notes
    assert note == "the result does not load: its layers begin with 1, loaders count from 0"


def test_layers_after_the_last_one(tmp_path: Path) -> None:
    """Those that predict further tokens are counted apart, in the same list or in another."""
    source = published(tmp_path / "source")
    config = {**config_of(source), "num_hidden_layers": 1, "num_nextn_predict_layers": 1}
    config |= {"num_mtp_layers": 4, "compress_ratios": [4, 8], "swiglu_limits": [1, 2, 3]}
    config.pop("layer_types", None)
    (source / "config.json").write_text(json.dumps(config, indent=1))
    streamconv.convert(source, tmp_path / "out", layers="0:1", verify=True)
    assert config_of(tmp_path / "out") == {**config, "num_nextn_predict_layers": 0}
    streamconv.merge(source, tmp_path / "both", layers="0:2", verify=True)
    assert_only(source, tmp_path / "both")


# --- odd texts ---------------------------------------------------------------------------------


ODD: dict[str, Callable[[str], str]] = {
    "one line, no newline at the end": lambda text: json.dumps(json.loads(text)),
    "a newline at the end": lambda text: text.rstrip("\n") + "\n",
    "tabs and CRLF": lambda text: text.replace("  ", "\t").replace("\n", "\r\n"),
    "spaces around everything": lambda text: f"\n \t{text.replace(':', ' :  ')}\n\n  ",
    "numbers and escapes": lambda text: (
        '{"x": 1.50e+0, "y": [0.1e-06 , -0.0], "\\u00e9": "\\/caf\u00e9\\n", ' + text.lstrip("{ \n")
    ),
    "keys like it in texts": lambda text: (
        '{"x": "\\"dtype\\": \\"bfloat16\\", {", "y": ["dtype", "bfloat16"], ' + text.lstrip("{ \n")
    ),
}


@pytest.mark.parametrize("odd", ODD)
def test_the_rest_is_kept_byte_for_byte(qwen3: Path, tmp_path: Path, odd: str) -> None:
    """Whatever it looks like."""
    source = shutil.copytree(qwen3, tmp_path / "source")
    text = ODD[odd]((qwen3 / "config.json").read_text())
    (source / "config.json").write_bytes(text.encode())
    streamconv.convert(source, tmp_path / "out", dtype="fp32", verify=True)
    begin = text.rindex('"dtype"')
    wanted = text[:begin] + text[begin:].replace("bfloat16", "float32", 1)
    assert (tmp_path / "out/config.json").read_bytes() == wanted.encode()
    assert loaded(tmp_path / "out")[1] == torch.float32


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b'\xef\xbb\xbf{"dtype": "bfloat16"}', "not JSON"),
        (b'{"dtype": "bfloat16", "dtype": "float16"}', "twice"),
        (b'{"a": {"dtype": 1, "dtype": 2}}', "twice"),
        (b"", "not JSON"),
        (b"[]", "not a JSON object"),
        ('{"dtype": "bfloat16"}'.encode("utf-16"), "not UTF-8"),
    ],
)
def test_what_readers_disagree_on_is_refused(
    qwen3: Path, tmp_path: Path, raw: bytes, says: str
) -> None:
    """In a line, before anything is written; transformers refuses most of it, too."""
    source = shutil.copytree(qwen3, tmp_path / "source")
    (source / "config.json").write_bytes(raw)
    with pytest.raises(BadCheckpoint, match=f"config.json.*{says}"):
        streamconv.convert(source, tmp_path / "out", dtype="fp32")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


# --- runs --------------------------------------------------------------------------------------


CAST: dict[str, Any] = {"dtype": "fp32", "max_shard_size": "20KB", "layers": "0:2"}


def test_parts_and_a_resumed_run(qwen3: Path, tmp_path: Path) -> None:
    """End in the tree of one run; one that keeps the config is another conversion."""
    streamconv.convert(qwen3, tmp_path / "one", **CAST)
    for number in (2, 1):
        streamconv.convert(qwen3, tmp_path / "parts", part=f"{number}/2", **CAST)
    streamconv.finish(tmp_path / "parts", verify=True)
    assert tree(tmp_path / "parts") == tree(tmp_path / "one")
    seen = []

    def on_event(event: Event) -> None:
        seen.append(isinstance(event, PieceWritten))
        if sum(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        streamconv.convert(qwen3, tmp_path / "again", on_event=on_event, **CAST)
    with pytest.raises(OutputExists, match="another conversion: config"):
        streamconv.convert(qwen3, tmp_path / "again", resume=True, keep_config=True, **CAST)
    streamconv.convert(qwen3, tmp_path / "again", resume=True, **CAST)
    assert tree(tmp_path / "again") == tree(tmp_path / "one")


@pytest.mark.parametrize("options", [CAST, {"copy": True}], ids=["edited", "copied"])
def test_a_config_that_changes_meanwhile(
    qwen3: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    """Is noticed, though what is written comes from the plan."""
    source = shutil.copytree(qwen3, tmp_path / "source")

    def on_event(event: Event) -> None:
        if isinstance(event, Prepared):
            path = source / "config.json"
            text = path.read_text()
            path.write_text(text.replace('"use_cache"', '"USE_CACHE"'))  # of the same size
            assert path.read_text() != text

    with pytest.raises(SourceChanged, match=r"config\.json"):
        streamconv.convert(source, tmp_path / "out", on_event=on_event, **options)
    assert not (tmp_path / "out").exists()


def test_the_last_lines_say_it(qwen3: Path, tmp_path: Path) -> None:
    """And a refused run writes nothing, with its code."""
    command = [sys.executable, "-m", "streamconv", "convert", str(qwen3), str(tmp_path / "out")]
    runs = [
        subprocess.run([*command, *words], capture_output=True, text=True, check=False)
        for words in (["--dtype", "fp32"], ["--dtype", "bf16", "--overwrite"])
    ]
    assert [done.returncode for done in runs] == [0, 4]
    said = runs[0].stdout.splitlines()
    assert "config.json: dtype is float32 instead of bfloat16" in said
    assert "it is already in bf16: nothing to convert" in runs[1].stderr
    assert "--copy" in runs[1].stderr
    assert config_of(tmp_path / "out")["dtype"] == "float32"


def test_the_plan_shows_it(qwen3: Path, tmp_path: Path) -> None:
    """In words and JSON, with the room on the disk that it takes."""
    result = streamconv.convert(qwen3, tmp_path / "out", sha256=True, **CAST)
    files = [path for path in (tmp_path / "out").iterdir() if path.name != "streamconv.json"]
    index = tmp_path / "out" / checkpoints.INDEX
    target = plan_fields(result.plan, None)["target"]
    assert [edit["key"] for edit in target["config_edits"]] == [
        "dtype",
        "layer_types",
        "num_hidden_layers",
    ]
    assert target["config_edits"][0] == {
        "key": "dtype",
        "removed": False,
        "from": "bfloat16",
        "to": "float32",
    }
    text = shown(result.plan)
    assert "dtype is float32 instead of bfloat16" in text
    assert "num_hidden_layers is 2 instead of 3" in text
    written = sum(path.stat().st_size for path in files if path != index)
    assert result.plan.write_bytes == written
    assert streamconv.verify(tmp_path / "out").ok
