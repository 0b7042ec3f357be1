"""The known families and layouts, all of them or those that are asked for."""

import pytest

from streamconv.catalog.catalog import default_catalog
from streamconv.errors import UsageError
from streamconv.report.catalog_report import (
    families_fields,
    families_table,
    layouts_fields,
    layouts_table,
)


def test_all_families_and_layouts() -> None:
    catalog = default_catalog()
    assert [row["family"] for row in families_fields()["families"]] == [*catalog.families]
    assert [row["layout"] for row in layouts_fields()["layouts"]] == [*catalog.layouts]
    assert len(families_table().rows) == len(catalog.families)
    assert len(layouts_table().rows) == len(catalog.layouts)


def test_the_families_of_some_model_types() -> None:
    """Two of one family are one row."""
    (row,) = families_table(("glm4_moe", "olmoe")).rows
    assert {"glm4_moe", "olmoe"} <= {*row[0].split(", ")}
    assert row[1:] == ("per-expert", "fused", "", "transformers")
    (mindspeed,) = families_table(("qwen3_omni_moe",)).rows
    assert mindspeed[1:] == ("per-expert", "fused", "fused-transposed", "mindspeed")


def test_a_family_that_is_refused_says_so() -> None:
    refused = next(each for each in default_catalog().families.values() if each.refused)
    (row,) = families_table(refused.model_types[:1]).rows
    assert row[-1] == "refused"


def test_the_axes_of_a_layout() -> None:
    (row,) = layouts_table(("fused",)).rows
    assert row[:3] == (
        "fused",
        "experts.gate_up_proj : e (p i) h",
        "experts.down_proj : e h i",
    )


def test_unknown_names_are_refused_with_the_likely_one() -> None:
    with pytest.raises(UsageError, match="'qwen3moe' is in no family") as caught:
        families_table(("qwen3_moe", "qwen3moe"))
    assert caught.value.hint == "did you mean qwen3_moe?"
    with pytest.raises(UsageError, match="no form or layout called 'fussed'"):
        layouts_fields(("fussed",))
