"""Every number format, decoded bit for bit as its own library or the formula in torch does."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import quantized
import torch
from decoded import TARGETS, decoded_of, raw, read_cast, source_of
from quantized import CASES, Case

from streamconv.checkpoint.casting import Casting
from streamconv.checkpoint.types import Checkpoint, TensorInfo
from streamconv.errors import BadCheckpoint
from streamconv.quantization.cast_checkpoint import cast_checkpoint


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    torch.manual_seed(7)
    yield CASES[request.param]()


@pytest.mark.parametrize("target", TARGETS)
def test_decoded_as_its_library_does(case: Case, target: str) -> None:
    source = source_of(case)
    wanted = case.decoded(TARGETS[target])
    info = decoded_of(source, target)
    assert (info.dtype, info.shape) == (target, tuple(wanted.shape))
    assert info.name in ("a", "a.weight")
    assert read_cast(source, info) == raw(wanted)


def test_any_range_of_it(case: Case) -> None:
    """Ranges that begin and end inside rows, groups and bytes."""
    source = source_of(case)
    whole = raw(case.decoded(torch.bfloat16))
    info = decoded_of(source, "BF16")
    generator = torch.Generator().manual_seed(3)
    for _ in range(60):
        ends = torch.randint(0, len(whole) // 2 + 1, (2,), generator=generator).tolist()
        begin, end = sorted(ends)
        assert read_cast(source, info, 2 * begin, 2 * (end - begin)) == whole[2 * begin : 2 * end]


# --- what is wrong with the data ---------------------------------------------------------------


def changed(case: Case, name: str, index: int, value: float) -> Case:
    """The case with one number of a tensor replaced."""
    tensor = case.tensors[name].clone()
    tensor.reshape(-1)[index] = value
    return replace(case, tensors={**case.tensors, name: tensor})


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("kind", "name", "at"),
    [
        ("fp8 blocks", ".weight_scale_inv", 5),
        ("fp8 channels", ".weight_scale", 23),
        ("fp8 tensor", ".weight_scale", 0),
        ("int4", ".weight_scale", 7),
        ("gptq", ".scales", 30),
        ("nvfp4 of modelopt", ".weight_scale_2", 0),
        ("nvfp4 of compressed-tensors", ".weight_global_scale", 0),
    ],
)
def test_a_scale_that_is_none(kind: str, name: str, at: int, value: float) -> None:
    """One error with the tensor, the scale that it holds, and what a scale is."""
    source = source_of(changed(CASES[kind](), name, at, value))
    info = decoded_of(source, "BF16")
    with pytest.raises(BadCheckpoint, match=f"tensor a{name} holds the scale {value:g} for a"):
        read_cast(source, info)


@pytest.mark.parametrize("kind", ["mxfp8", "mxfp4 of compressed-tensors", "mxfp4 of gpt-oss"])
def test_an_exponent_that_is_no_number(kind: str) -> None:
    name = {"mxfp8": ".weight_scale_inv", "mxfp4 of gpt-oss": "_scales"}.get(kind, ".weight_scale")
    source = source_of(changed(CASES[kind](), name, 3, 255))
    with pytest.raises(BadCheckpoint, match="holds the scale nan"):
        read_cast(source, decoded_of(source, "F32"))


@pytest.mark.parametrize("group", [-1, 2])
def test_a_group_that_is_not_there(group: int) -> None:
    source = source_of(changed(CASES["gptq"](), ".g_idx", 9, group))
    with pytest.raises(BadCheckpoint, match=f"a.g_idx names the group {group}, and there are 2"):
        read_cast(source, decoded_of(source, "BF16"))


def test_codes_that_are_too_wide() -> None:
    """Codes of 4 bits, each in a byte of its own."""
    case = CASES["int8"]()
    weights = case.config["quantization_config"]["config_groups"]["group_0"]["weights"]
    weights["num_bits"] = 4
    narrow = replace(case, tensors={**case.tensors, ".weight": case.tensors[".weight"] >> 4})
    source = source_of(narrow)
    scale = case.tensors[".weight_scale"]
    wanted = (narrow.tensors[".weight"].float() * scale.float()).bfloat16()
    assert read_cast(source, decoded_of(source, "BF16")) == raw(wanted)
    source = source_of(changed(narrow, ".weight", 40, 8))
    with pytest.raises(BadCheckpoint, match=r"a.weight has the code 8, and codes of 4 bits are"):
        read_cast(source, decoded_of(source, "BF16"))


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ([24, 72], r"says \[24, 72\], and its codes are I32 \[24, 8\]"),
        ([25, 64], r"says \[25, 64\], and"),
        ([24, 0], "which is no matrix"),
        ([-24, 64], "which is no matrix"),
        ([24, 2**40], "says"),
    ],
)
def test_a_shape_that_is_not_that_of_the_codes(shape: list[int], says: str) -> None:
    case = CASES["int4"]()
    tensors = {**case.tensors, ".weight_shape": torch.tensor(shape)}
    with pytest.raises(BadCheckpoint, match=says) as error:
        decoded_of(source_of(replace(case, tensors=tensors)), "BF16")
    assert "a.weight_shape" in error.value.message


def test_the_two_second_scales_are_not_alike() -> None:
    """To multiply where one divides is wrong by far more than a rounding."""
    case = CASES["nvfp4 of compressed-tensors"]()
    made = case.decoded(torch.float32)
    second = case.tensors[".weight_global_scale"]
    multiplied = made * second * second
    assert ((multiplied - made).abs() / made.abs().clamp(min=1e-9)).median() > 2
    source = source_of(case)
    assert read_cast(source, decoded_of(source, "F32")) == raw(made)


# --- config.json and tensors -------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"group_size": 16}, "config.json says group 16"),
        ({"symmetric": False}, "zero points a.weight_zero_point are missing"),
        ({"num_bits": 8}, "stored as int4, and config.json does not say so"),
    ],
)
def test_other_numbers_than_config_json_says(facts: dict[str, object], says: str) -> None:
    case = CASES["int4"]()
    case.config["quantization_config"]["config_groups"]["group_0"]["weights"].update(facts)
    with pytest.raises(BadCheckpoint, match=says):
        decoded_of(source_of(case), "BF16")


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


def test_two_tensors_for_one_purpose() -> None:
    case = CASES["fp8 channels"]()
    twice = {**case.tensors, ".weight_scale_inv": case.tensors[".weight_scale"]}
    with pytest.raises(BadCheckpoint, match=r"a.weight_scale and a.weight_scale_inv, and"):
        decoded_of(source_of(replace(case, tensors=twice)), "BF16")


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


# --- several matrices in a tensor --------------------------------------------------------------


@pytest.mark.parametrize("grid", [(3, 8, 1), (3, 1, 32), (3, 1, 1), (3,), (), (1,)], ids=str)
def test_experts_in_one_tensor(grid: tuple[int, ...]) -> None:
    """Scales for rows, columns or experts, or one for all: Maverick, Mistral-Small."""
    weight, scale = quantized.codes8(3, 8, 32), quantized.scales(*grid, dtype=torch.bfloat16)
    wide = scale.reshape(*grid, *(1,) * (3 - len(grid))) if len(grid) in (1, 3) else scale
    wanted = (weight.float() * wide.float()).bfloat16()
    source = source_of(Case({"": weight, "_scale": scale}, {}, wanted.to))
    info = decoded_of(source, "BF16")
    assert (info.name, info.shape) == ("a", (3, 8, 32))
    assert read_cast(source, info) == raw(wanted)
    assert read_cast(source, info, 522, 610) == raw(wanted)[522:1132]


def test_experts_of_modelopt_in_one_tensor() -> None:
    """Llama-4: two codes of one column in a byte, and one scale for all experts."""
    packed = quantized.draw(3, 16, 24).to(torch.uint8)
    scale = quantized.codes8(3, 2, 24).float().abs().clamp(min=2**-9).to(torch.float8_e4m3fn)
    second = torch.tensor(0.02)
    pairs = quantized.nibbles(packed.transpose(1, 2).contiguous()).transpose(1, 2)
    factor = (scale.float() * second).repeat_interleave(16, 1)
    wanted = ((quantized.E2M1[pairs] + 0.0) * factor).bfloat16()
    tensors = {"": packed, "_weight_scale": scale, "_weight_scale_2": second}
    source = source_of(Case(tensors, {}, wanted.to))
    info = decoded_of(source, "BF16")
    assert (info.name, info.shape) == ("a", (3, 32, 24))
    assert read_cast(source, info) == raw(wanted)


TRUE_SHAPES = {
    "MiniMax-M3": (
        {"quantization_config": {"quant_method": "mxfp8", "weight_block_size": [1, 32]}},
        {".weight": ("F8_E4M3", (3072, 6144)), ".weight_scale_inv": ("U8", (3072, 192))},
        ("mxfp8", (3072, 6144)),
    ),
    "Kimi-K3": (
        quantized.compressed("mxfp4-pack-quantized", num_bits=4, type="float", group_size=32),
        {".weight_packed": ("U8", (2048, 3584)), ".weight_scale": ("U8", (2048, 224))},
        ("mxfp4-packed", (2048, 7168)),
    ),
    "Maverick": (
        quantized.compressed("float-quantized", num_bits=8, type="float", strategy="channel"),
        {"": ("F8_E4M3", (128, 5120, 16384)), "_scale": ("BF16", (128, 1, 16384))},
        ("fp8-channel", (128, 5120, 16384)),
    ),
    "gpt-oss-120b": (
        {"quantization_config": {"quant_method": "mxfp4"}},
        {"_blocks": ("U8", (128, 5760, 90, 16)), "_scales": ("U8", (128, 5760, 90))},
        ("mxfp4-blocks", (128, 2880, 5760)),
    ),
}


@pytest.mark.parametrize("name", TRUE_SHAPES)
def test_published_shapes_are_recognized(name: str) -> None:
    """From headers alone, nothing is read."""
    config, tensors, (kind, shape) = TRUE_SHAPES[name]
    infos = {
        f"a{end}": TensorInfo(f"a{end}", dtype, sizes, "f", 0, 0)
        for end, (dtype, sizes) in tensors.items()
    }
    checkpoint = Checkpoint("here", infos, (), (), config, None, 0)
    (info,) = cast_checkpoint(checkpoint, Casting(dequantize="BF16")).tensors.values()
    assert info.cast is not None
    assert info.cast.decoding is not None
    assert (info.cast.decoding.format, info.shape) == (kind, shape)
