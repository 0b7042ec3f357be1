"""The rows that commands and documents list, compared with the tables they come from."""

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from streamconv.catalog.catalog import default_catalog, load_catalog
from streamconv.catalog.listing import family_rows, layout_rows


def table(name: str) -> dict[str, Any]:
    text = resources.files("streamconv.catalog").joinpath("data", name).read_text()
    return tomllib.loads(text)


@pytest.fixture(scope="module")
def families() -> dict[str, dict[str, Any]]:
    return {row["family"]: row for row in family_rows(default_catalog())}


def test_every_layout_has_a_row() -> None:
    rows = {row["layout"]: row for row in layout_rows(default_catalog())}
    shipped = table("layouts.toml")["layouts"]
    assert list(rows) == list(shipped)
    for name, row in rows.items():
        assert row["used_by"] == shipped[name]["used_by"]
        assert row["templates"]


def test_every_family_has_a_row(families: dict[str, dict[str, Any]]) -> None:
    shipped = table("families.toml")
    assert list(families) == list(shipped)
    for name, row in families.items():
        assert row["model_types"] == shipped[name]["model_types"]
        assert row["refused"] == shipped[name].get("refused")


def test_a_family_in_detail(families: dict[str, dict[str, Any]]) -> None:
    row = next(row for row in families.values() if "qwen3_moe" in row["model_types"])
    assert all(layouts == ["per-expert"] for layouts in row["forms"]["hub"].values())
    assert all(layouts == ["fused"] for layouts in row["forms"]["transformers"].values())
    assert {"fused", "per-expert", "stacked"} <= set(row["layouts"])


def test_every_layout_of_the_hub_is_listed(families: dict[str, dict[str, Any]]) -> None:
    """Some have several."""
    several = {
        name: row["hub"]["layouts"]["*"]
        for name, row in table("families.toml").items()
        if isinstance(row.get("hub", {}).get("layouts", {}).get("*"), list)
    }
    assert several["internvl-chat"] == ["per-expert", "fused-interleaved"]
    for name, layouts in several.items():
        assert layouts in families[name]["forms"]["hub"].values()


def test_a_refused_family_converts_to_nothing(families: dict[str, dict[str, Any]]) -> None:
    refused = [row for row in families.values() if row["refused"]]
    for row in refused:
        assert (row["layouts"], row["tested_against"]) == ([], "refused")
    assert all(row["layouts"] for row in families.values() if not row["refused"])


def test_a_layout_that_looks_like_the_hubs_is_no_target(tmp_path: Path) -> None:
    """A result in it would be taken for the checkpoint from the hub."""
    fused = default_catalog().layouts["fused"].templates
    path = tmp_path / "mine.toml"
    path.write_text(
        "[layouts.twin]\nused_by = 'nobody'\n"
        f"gate_up = '{fused['gate_up']}'\ndown = '{fused['down']}'\n"
        "[families.mine]\nmodel_types = ['my_moe']\nmerge = 'transformers'\n"
        'stacks = { "model.layers.*.mlp." = "" }\n'
        'hub.layouts = { "*" = "fused" }\ntransformers.layouts = { "*" = "fused" }\n'
    )
    rows = {row["family"]: row for row in family_rows(load_catalog(path))}
    assert "fused" in rows["mine"]["layouts"]
    assert "twin" not in rows["mine"]["layouts"]


@pytest.mark.parametrize("reference", ["transformers", "formulas", "refused"])
def test_every_kind_of_reference_occurs(
    reference: str, families: dict[str, dict[str, Any]]
) -> None:
    assert any(row["tested_against"] == reference for row in families.values())
