"""Every number format, decoded bit for bit as its own library or the formula in torch does."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from decoded import TARGETS, decoded_of, raw, read_cast, source_of
from quantized import CASES, Case

from streamconv.errors import BadCheckpoint


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
