"""Every number format, decoded bit for bit as its own library or the formula in torch does."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from decoded import TARGETS, changed, decoded_of, raw, read_cast, source_of
from quantized import CASES, Case

from streamconv.errors import BadCheckpoint
from streamconv.quantization import decode
from streamconv.quantization.workspace import Array
from streamconv.sources.base import Read
from streamconv.sources.wrappers.cast import CastSource


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


def test_tables_of_blocks_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """For all reads of a row of blocks, and anew for each other one."""
    torch.manual_seed(8)
    case = CASES["fp8 blocks"]()
    source = source_of(case)
    info = decoded_of(source, "BF16")
    wanted = raw(case.decoded(torch.bfloat16))
    made: list[int] = []
    narrow = decode.narrow

    def noting(values: Array, *others: Any, **options: Any) -> None:
        made.append(len(values))
        narrow(values, *others, **options)

    monkeypatch.setattr(decode, "narrow", noting)
    rows, columns = info.shape
    reader, found = CastSource(source), memoryview(bytearray(info.nbytes))
    for begin in range(0, info.nbytes, 4 * 2 * columns):
        reader.read([Read(info, begin, found[begin : begin + 4 * 2 * columns])])
    assert bytes(found) == wanted
    assert len(made) == -(-rows // 16)


# --- what is wrong with the data ---------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("fp8 blocks", ".weight_scale_inv"),
        ("fp8 channels", ".weight_scale"),
        ("fp8 tensor", ".weight_scale"),
        ("int8", ".weight_scale"),
        ("nvfp4 of modelopt", ".weight_scale"),
    ],
)
def test_a_scale_of_zeros(kind: str, name: str) -> None:
    """Quantizers give a block of zeros the scale 0: it means zeros, as it does in torch."""
    case = CASES[kind]()
    for part in (".weight", name):
        case.tensors[part] = torch.zeros_like(case.tensors[part])
    source = source_of(case)
    values = read_cast(source, decoded_of(source, "F32"))
    assert not any(values)


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


def test_the_two_second_scales_are_not_alike() -> None:
    """To multiply where one divides is wrong by far more than a rounding."""
    case = CASES["nvfp4 of compressed-tensors"]()
    made = case.decoded(torch.float32)
    second = case.tensors[".weight_global_scale"]
    multiplied = made * second * second
    assert ((multiplied - made).abs() / made.abs().clamp(min=1e-9)).median() > 2
    source = source_of(case)
    assert read_cast(source, decoded_of(source, "F32")) == raw(made)
