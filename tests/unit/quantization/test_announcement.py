"""What sections of config.json say about number formats, as their tools write them."""

from typing import Any

import pytest
from quantized import CASES

from streamconv.catalog.checkpoint_files import QUANT_CONFIG
from streamconv.quantization.announcement import (
    announcements,
    contradiction_notes,
    sections,
    stated_block,
)
from streamconv.quantization.number_format import number_formats

FP8 = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}
INT4 = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32},
        }
    },
}


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        (FP8, {"method": "fp8", "block": [128, 128]}),
        (
            INT4,
            {
                "method": "compressed-tensors",
                "format": "pack-quantized",
                "bits": 4,
                "type": "int",
                "strategy": "group",
                "group": 32,
            },
        ),
        (
            {"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm"},
            {"method": "awq", "bits": 4, "group": 64, "version": "gemm"},
        ),
        ({"group_size": 64, "bits": 4}, {"method": "mlx", "group": 64, "bits": 4}),
    ],
)
def test_facts(section: dict[str, Any], expected: dict[str, Any]) -> None:
    """The keys of each tool become the words of the table."""
    (found,) = announcements({"quantization_config": section})
    assert found.facts == expected
    assert found.path == "quantization_config"


def test_each_group_is_a_statement_of_its_own() -> None:
    """Those that are equal count once."""
    group = INT4["config_groups"]["group_0"]  # type: ignore[index]
    other = {"weights": {**group["weights"], "num_bits": 8}}
    groups = {"group_0": group, "group_1": group, "group_2": other}
    found = announcements({"quantization_config": {**INT4, "config_groups": groups}})
    assert [each.facts["bits"] for each in found] == [4, 8]


def test_sections_anywhere() -> None:
    config = {"a": 1, "text_config": {"quantization_config": FP8}, "compression_config": INT4}
    assert sections(config) == ("text_config.quantization_config", "compression_config")
    assert [each.facts["method"] for each in announcements(config)] == ["fp8", "compressed-tensors"]


def test_a_section_that_is_nested_too_deeply() -> None:
    config: dict[str, Any] = {"quantization_config": FP8}
    for depth in range(6):
        assert len(sections(config)) == (depth <= 4)
        config = {"inner": config}


def test_the_file_of_modelopt() -> None:
    """Counts only if config.json says nothing."""
    file = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4"}}
    (found,) = announcements({}, file)
    assert (found.path, found.facts) == (QUANT_CONFIG, {"method": "modelopt", "algo": "NVFP4"})
    (config,) = announcements({"quantization_config": FP8}, file)
    assert config.facts["method"] == "fp8"
    assert announcements({}, {"producer": {"name": "modelopt"}}) == ()


@pytest.mark.parametrize("section", [{}, {"bits": "4", "weight_block_size": [0, 128]}, {"sym": []}])
def test_values_that_make_no_sense_are_no_facts(section: dict[str, Any]) -> None:
    found = announcements({"quantization_config": section})
    assert all("block" not in each.facts and "symmetric" not in each.facts for each in found)


def test_which_formats_a_section_allows() -> None:
    (fp8,) = announcements({"quantization_config": FP8})
    (int4,) = announcements({"quantization_config": INT4})
    allowed = [
        {name for name, row in number_formats().items() if each.allows(row)} for each in (fp8, int4)
    ]
    assert allowed[0]
    assert allowed[1]
    assert not allowed[0] & allowed[1]


def test_the_text_names_the_section_and_its_facts() -> None:
    (found,) = announcements({"quantization_config": FP8})
    assert found.text == "quantization_config says method fp8, block [128, 128]"


def block_of(config: dict[str, Any]) -> tuple[int, int] | None:
    return stated_block(announcements(config))


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ([128, 64], (128, 64)),
        ([0, 64], None),
        ([128], None),
        ([128, True], None),
        ("128x64", None),
        (None, None),
    ],
    ids=str,
)
def test_the_block_of_a_quantized_checkpoint(
    block: object, expected: tuple[int, int] | None
) -> None:
    """Of the config itself or of a section of it, by any name of the section."""
    for section in ("quantization_config", "compression_config"):
        config = {section: {"weight_block_size": block}}
        assert block_of(config) == expected
        assert block_of({"a": 1, "text_config": {"b": config}}) == expected
    assert block_of({"quantization_config": "fp8"}) is None


def test_the_block_of_a_group() -> None:
    assert block_of(CASES["fp8 blocks of compressed-tensors"]().config) == (16, 16)
    assert block_of(CASES["fp8 channels"]().config) is None


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [("FP8_PB_WO", (128, 128)), ("FP8", None), ("MIXED_PRECISION", None), ("NVFP4", None)],
)
def test_blocks_of_the_usual_size(algorithm: str, expected: tuple[int, int] | None) -> None:
    """If nothing but a format in blocks is meant."""
    config = {"quantization_config": {"quant_method": "modelopt", "quant_algo": algorithm}}
    assert block_of(config) == expected
    file = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": algorithm}}
    assert stated_block(announcements({}, file)) == expected


def modelopt_file(**facts: object) -> dict[str, Any]:
    """The content of a hf_quant_config.json."""
    return {"producer": {"name": "modelopt"}, "quantization": facts}


@pytest.mark.parametrize(
    ("section", "file", "contradicts"),
    [
        ({"quant_algo": "NVFP4"}, {"quant_algo": "NVFP4"}, False),
        ({"quant_algo": "NVFP4"}, {"quant_algo": "MIXED_PRECISION"}, False),
        ({"quant_algo": "NVFP4"}, {"quant_algo": "FP8"}, True),
        ({"quant_algo": "NVFP4", "group_size": 16}, {"quant_algo": "NVFP4"}, False),
        (
            {"quant_algo": "NVFP4", "group_size": 16},
            {"quant_algo": "NVFP4", "group_size": 32},
            True,
        ),
        ({}, {"quant_algo": "FP8"}, False),
        ({"quant_algo": "NVFP4"}, {"kv_cache_quant_algo": "FP8"}, False),
        (INT4, {"quant_algo": "FP8"}, True),
        (INT4, {"quant_algo": "SOME_OTHER"}, False),
    ],
)
def test_two_files_that_mean_different_formats(
    section: dict[str, Any], file: dict[str, Any], contradicts: bool
) -> None:
    """config.json is believed, as loaders do, and a note names both statements."""
    config = {"quantization_config": {"quant_method": "modelopt", **section}}
    notes = list(contradiction_notes(config, modelopt_file(**file)))
    assert len(notes) == contradicts
    assert all("hf_quant_config.json" in n and "quantization_config" in n for n in notes)
    assert list(contradiction_notes({}, modelopt_file(**file))) == []


def test_a_section_without_an_algorithm_is_completed() -> None:
    """It is in the other file."""
    bare = {"quantization_config": {"quant_method": "modelopt"}}
    file = modelopt_file(quant_algo="NVFP4", group_size=16)
    (found,) = announcements(bare, file)
    assert found.facts == {"method": "modelopt", "algo": "NVFP4", "group": 16}
    assert found.path == "quantization_config with hf_quant_config.json"
    (found,) = announcements(bare, {})
    assert found.path == "quantization_config"
