"""Every name that a layout gives leads back to that layout."""

import itertools

from streamconv.catalog.catalog import default_catalog
from streamconv.catalog.layouts import NamedLayout

CATALOG = default_catalog()

LAYOUT_NAMES = [
    "per-expert",
    "fused",
    "fused-transposed",
    "fused-flat",
    "stacked",
    "stacked-flat",
    "fused-interleaved",
    "interleaved",
    "nemo",
]


def test_every_name_leads_back() -> None:
    """Each name that a row can write means that row's weight and position, among few others."""
    seen = set()
    auto_detect = [naming for naming in CATALOG.namings.values() if naming.auto_detect]
    for layout, naming in itertools.product(CATALOG.layouts.values(), auto_detect):
        row = NamedLayout(layout, naming)
        told_by_names = layout.name in ("per-expert", "stacked", "stacked-flat")
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
                found = [r for r in CATALOG.names_to_weights()[name] if r.row.layout is layout]
                assert len(found) == 1, name
                assert (found[0].weight, found[0].position) == (weight, position)
                expected = naming if told_by_names else CATALOG.namings["qwen"]
                assert found[0].row == NamedLayout(layout, expected)
    assert seen == set(CATALOG.names_to_weights())


def test_meanings_of_well_known_names() -> None:
    """What the names of real checkpoints mean."""

    def meaning(name: str) -> set[tuple[str, str, tuple[int | None, ...]]]:
        return {(r.row.layout.name, r.weight, r.position) for r in CATALOG.names_to_weights()[name]}

    assert meaning("experts.*.up_proj.weight") == {("per-expert", "gate_up", (None, 1))}
    assert meaning("experts.*.w3.weight") == {("per-expert", "gate_up", (None, 1))}
    assert meaning("experts.*.w2.weight") == {("per-expert", "down", (None, 0))}
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
    assert {layout for layout, _, _ in meaning("experts.down_proj")} == set(LAYOUT_NAMES) - {
        "per-expert",
        "nemo",
    }
    for name in ("shared_expert.up_proj.weight", "up_proj.weight", "experts.*.weight"):
        assert name not in CATALOG.names_to_weights()
