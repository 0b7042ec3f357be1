"""Formats of weights: config.json and the tensors have to agree."""

from dataclasses import replace

import pytest
import torch
from decoded import decoded_of, raw, read_cast, source_of
from header_models import Tensors, checkpoint_of
from quantized import CASES, Case, compressed, fp8_block, section

from streamconv.errors import BadCheckpoint
from streamconv.quantization.recognize import recognize


@pytest.mark.parametrize(
    ("kind", "other"),
    [
        ("fp8 blocks", "int4"),
        ("int4", "fp8 channels"),
        ("nvfp4 of modelopt", "nvfp4 of compressed-tensors"),
        ("gptq", "awq"),
        ("awq", "gptq"),
        ("mxfp8", "int8"),
        ("fp8 channels", "fp8 blocks"),
    ],
)
def test_another_format_than_config_json_says(kind: str, other: str) -> None:
    """One error with the tensor and both facts."""
    source = source_of(replace(CASES[kind](), config=CASES[other]().config))
    with pytest.raises(BadCheckpoint) as error:
        decoded_of(source, "BF16")
    message = error.value.message
    assert "tensor a." in message
    assert "quantization_config says method" in message or "config.json says" in message


def test_tensors_alone_decide_if_config_json_says_nothing() -> None:
    """What they leave open is an error, and not a guess."""
    for kind in (
        "fp8 blocks, exponents as bytes",
        "fp8 channels",
        "awq",
        "nvfp4 of modelopt",
        "int8",
    ):
        case = replace(CASES[kind](), config={})
        source = source_of(case)
        wanted = case.decoded(torch.bfloat16)
        assert read_cast(source, decoded_of(source, "BF16")) == raw(wanted)
    with pytest.raises(BadCheckpoint, match=r"can be gptq or gptq-v2, and config.json does not"):
        decoded_of(source_of(replace(CASES["gptq"](), config={})), "BF16")


def test_blocks_of_which_config_json_says_nothing() -> None:
    """They are those of transformers, 128 x 128, even if others would divide the matrix evenly."""
    for dtype in ("float32", "e8m0"):
        case = replace(fp8_block(160, 192, block=128, dtype=dtype), config={})
        source = source_of(case)
        wanted = case.decoded(torch.float32)
        assert read_cast(source, decoded_of(source, "F32")) == raw(wanted)
    halves = replace(fp8_block(160, 96, block=128), config={})
    with pytest.raises(BadCheckpoint, match=r"can be fp8-tensor or fp8-block, and config.json"):
        decoded_of(source_of(halves), "F32")


def test_what_modelopt_says_in_a_file_of_its_own() -> None:
    """It counts if config.json says nothing."""
    case = replace(CASES["nvfp4 of modelopt"](), config={})
    source = source_of(case)
    for algorithm, is_allowed in (("NVFP4", True), ("FP8", False)):
        said = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": algorithm}}
        source.checkpoint = replace(source.checkpoint, quant_config=said)
        if is_allowed:
            assert decoded_of(source, "BF16").shape == (24, 64)
        else:
            with pytest.raises(BadCheckpoint, match=r"hf_quant_config.json says algo FP8"):
                decoded_of(source, "BF16")


GROUPS = {"num_bits": 8, "type": "int", "strategy": "group", "group_size": 128}
ZEROS = {".weight_zero_point": torch.zeros(192, 2, dtype=torch.int8)}


def eight_bits(dtype: torch.dtype, scales: int, **weights: object) -> Case:
    """A weight of 192 x 256 with a number of scales for each row."""
    layout = "int-quantized" if dtype == torch.int8 else "float-quantized"
    tensors = {
        ".weight": torch.ones(192, 256).to(dtype),
        ".weight_scale": torch.ones(192, scales),
    }
    return Case(tensors, compressed(layout, **GROUPS | weights), torch.ones(192, 256).to)


SYMMETRIC = eight_bits(torch.int8, 2)
GPTQ = replace(CASES["gptq"](), config=section("gptq", bits=4, group_size=-1, sym=False))


@pytest.mark.parametrize(
    ("case", "says"),
    [
        (eight_bits(torch.int8, 4), "as int8 does; config.json says group 128"),
        (eight_bits(torch.int8, 4, num_bits=4), "as int4-bytes does; config.json says group 128"),
        (
            eight_bits(torch.float8_e4m3fn, 4, type="float"),
            "as fp8-group does; config.json says group 128",
        ),
        (
            eight_bits(torch.int8, 2, symmetric=False),
            "its zero points a.weight_zero_point are missing, and config.json says",
        ),
        (
            eight_bits(torch.int8, 2, symmetric=False, num_bits=4),
            "its zero points a.weight_zero_point are missing, and config.json says",
        ),
        (
            replace(SYMMETRIC, tensors=SYMMETRIC.tensors | ZEROS),
            "it has the zero points a.weight_zero_point, and config.json says that its codes",
        ),
        (GPTQ, "as gptq does; config.json says group of a whole"),
    ],
    ids=["int8", "int4-bytes", "fp8-group", "int8 zeros", "int4-bytes zeros", "symmetric", "gptq"],
)
def test_what_differs_from_config_json_is_named(case: Case, says: str) -> None:
    """It is the format that config.json says, but for its groups or zero points."""
    with pytest.raises(BadCheckpoint) as error:
        decoded_of(source_of(case), "BF16")
    assert says in error.value.message


CHANNELS = compressed("float-quantized", num_bits=8, type="float", strategy="channel")


@pytest.mark.parametrize(("dtype", "config"), [("I8", {}), ("F8_E4M3", CHANNELS)])
def test_only_tensors_of_experts_have_a_scale_for_each_expert(
    dtype: str, config: dict[str, object]
) -> None:
    """Two scales a column would be blocks of 96 rows in another weight, which nobody writes."""
    fused, *others = (
        f"model.layers.0.{name}"
        for name in ("mlp.experts.down_proj", "self_attn.q_proj", "mlp.experts.0.down_proj")
    )
    tensors: Tensors = {}
    for stem, ending in ((fused, ""), *((other, ".weight") for other in others)):
        tensors[f"{stem}{ending}"] = (dtype, (192, 64))
        tensors[f"{stem}{ending}_scale"] = ("F32", (2, 64))
    found = recognize(replace(checkpoint_of(tensors), config=config), strict=False)
    assert list(found.weights) == [fused]
    assert set(found.unknown) == {f"{other}.weight" for other in others}


def test_formats_that_are_known_by_name_only() -> None:
    """One tensor that only such a format has is enough; nothing of it is decoded."""
    for codes, word, name in (
        ("weight", "weight.absmax", "bitsandbytes"),
        ("weight", "deq_scale", "modelslim"),
        ("weight_packed", "scale_packed", "marlin-24"),
    ):
        tensors = {f".{codes}": torch.ones(4, 4, dtype=torch.uint8), f".{word}": torch.ones(4)}
        case = replace(CASES["int4"](), tensors=tensors, config={})
        found = recognize(source_of(case).checkpoint, strict=True).weights.values()
        assert {(each.format.name, each.decoding) for each in found} == {(name, None)}
