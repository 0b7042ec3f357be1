"""Every name that a layout gives leads back to that layout."""

import itertools

from streamconv.catalog.catalog import default_catalog
from streamconv.catalog.layouts import NamedLayout
from streamconv.catalog.name_lookup import build_name_lookup

CATALOG = default_catalog()

LAYOUT_NAMES = [
    "per-expert",
    "fused",
    "fused-transposed",
    "fused-flat",
    "stacked",
    "stacked-flat",
    "fused-interleaved",
    "per-expert-fused",
    "projection-lists",
    "expert-lists",
    "expert-lists-interleaved",
    "interleaved",
    "nemo",
]
SHOW_PROJECTIONS = ("per-expert", "stacked", "stacked-flat", "per-expert-fused", "projection-lists")


def test_every_name_leads_back() -> None:
    """Each name that a row can write means that row's weight and position, among few others."""
    seen = set()
    auto_detect = [naming for naming in CATALOG.namings.values() if naming.auto_detect]
    for layout, naming in itertools.product(CATALOG.layouts.values(), auto_detect):
        row = NamedLayout(layout, naming)
        told_by_names = layout.name in SHOW_PROJECTIONS
        assert row.names_projections() == told_by_names
        for weight, template in layout.templates.items():
            spans = [[None] if a == "e" else [*range(row.sizes()[a])] for a in template.name_axes]
            for position in itertools.product(*spans):
                tokens = {
                    axis: "*" if k is None else row.token(axis, k)
                    for axis, k in zip(template.name_axes, position, strict=True)
                }
                name = template.tensor_name(tokens)
                seen.add(name)
                expected = NamedLayout(layout, naming if told_by_names else CATALOG.namings["qwen"])
                found = [r for r in CATALOG.names_to_weights()[name] if r.row == expected]
                # names that several shapes share have a meaning for each
                assert {match.weight.partition("-")[0].replace(".", "_") for match in found} == {
                    weight.partition("-")[0].replace(".", "_")
                }, name
                assert [m.position for m in found if m.weight == weight] == [position], name
    assert seen == set(build_name_lookup(CATALOG.layouts.values(), auto_detect))


def test_other_spellings_mean_the_same() -> None:
    """Of weights and of their companions, in addition to what templates say."""
    known = CATALOG.names_to_weights()
    for spelled, name in {
        "switch_mlp.up_proj.weight": "experts.up_proj",
        "experts.w2_EDF": "experts.w2",
        "experts.*.w13.weight": "experts.*.gate_up_proj.weight",
        "experts.down_proj.weight_scale_inv": "experts.down_proj_scale_inv",
        "experts.w2_bias": "experts.down_proj_bias",
        "experts.switch_glu.w1.bias": "experts.w1_bias",
    }.items():
        assert {*known[name]} <= {*known[spelled]}
    auto_detect = [naming for naming in CATALOG.namings.values() if naming.auto_detect]
    without = build_name_lookup(CATALOG.layouts.values(), auto_detect)
    assert all({*found} <= {*known[name]} for name, found in without.items())


def test_meanings_of_well_known_names() -> None:
    """What the names of real checkpoints mean."""

    def meaning(name: str) -> set[tuple[str, str, tuple[int | None, ...]]]:
        found = CATALOG.names_to_weights()[name]
        return {(r.row.layout.name, r.weight, r.position) for r in found if "-" not in r.weight}

    assert meaning("experts.*.up_proj.weight") == {("per-expert", "gate_up", (None, 1))}
    assert meaning("experts.*.w3.weight") == {("per-expert", "gate_up", (None, 1))}
    assert meaning("experts.*.w2.weight") == {
        ("per-expert", "down", (None, 0)),
        ("per-expert-fused", "down", (None, 0)),
    }
    assert meaning("experts.gate_proj") == {
        ("stacked", "gate_up", (0,)),
        ("stacked-flat", "gate_up", (0,)),
    }
    assert meaning("experts.*.w1.weight_scale_inv") == {
        ("per-expert", "gate_up_scale_inv", (None, 0))
    }
    assert {layout for layout, _, _ in meaning("experts.gate_up_proj_packed")} == {"fused"}
    assert meaning("experts.gate_up_proj") == {
        (name, "gate_up", ())
        for name in ("fused", "fused-transposed", "fused-flat", "fused-interleaved")
    }
    assert {layout for layout, _, _ in meaning("experts.down_proj")} == {
        *("fused", "fused-transposed", "fused-flat", "fused-interleaved", "interleaved"),
        *("stacked", "stacked-flat"),
    }
    for name in ("shared_expert.up_proj.weight", "up_proj.weight", "experts.*.weight"):
        assert name not in CATALOG.names_to_weights()
