"""The plan of one module: its outputs, and the outputs that each input is a part of."""

from header_models import checkpoint_of, experts

from streamconv.catalog.catalog import default_catalog
from streamconv.planning.build import build_outputs
from streamconv.relaying.module_plan import ModulePlan, plan_module

MLP = "model.layers.0.mlp."


def planned(source: str, target: str) -> ModulePlan:
    """The plan of a module of two experts."""
    checkpoint = checkpoint_of(experts(MLP, 2, 4, 6, source))
    options = {"source_layout": source}
    outputs = build_outputs(checkpoint, default_catalog(), target, options)  # type: ignore[arg-type]
    (stack,) = outputs.source.stacks
    return plan_module(outputs, stack, stack.modules[0])


def test_several_inputs_become_one_output() -> None:
    """Names are those below the module, in hub names; numbers are places among the inputs."""
    plan = planned("per-expert", "fused")
    gate_up, down = plan.outputs
    assert (gate_up.suffix, down.suffix) == ("experts.gate_up_proj", "experts.down_proj")
    assert gate_up.moves.shape == (2, 8, 6)
    assert sorted(gate_up.inputs) == sorted(
        f"experts.{e}.{p}_proj.weight" for e in range(2) for p in ("gate", "up")
    )
    assert plan.uses["experts.1.down_proj.weight"] == [(1, 1)]
    for number, output in enumerate(plan.outputs):
        for place, name in enumerate(output.inputs):
            assert plan.uses[name] == [(number, place)]


def test_one_input_becomes_several_outputs() -> None:
    plan = planned("fused", "per-expert")
    assert len(plan.outputs) == 6
    assert [number for number, _ in plan.uses["experts.gate_up_proj"]] == [
        number for number, each in enumerate(plan.outputs) if "down" not in each.suffix
    ]
    assert {place for uses in plan.uses.values() for _, place in uses} == {0}


def test_a_module_that_stays_is_copied() -> None:
    """Each tensor is the whole of its output."""
    plan = planned("fused", "fused")
    assert [(each.suffix, each.inputs) for each in plan.outputs] == [
        (name, (name,)) for name in ("experts.gate_up_proj", "experts.down_proj")
    ]
    assert all(each.moves.is_whole for each in plan.outputs)
