"""Sentences on the outcome of a plan: its source and result, and what to do with the result."""

import shlex
from collections.abc import Iterable

from streamconv.catalog.checkpoint_files import CONFIG
from streamconv.catalog.families import FORMS, HUB_NAMES
from streamconv.catalog.layouts import PER_EXPERT
from streamconv.checkpoint.casting import AS_STORED
from streamconv.errors import quoted
from streamconv.planning.plan import Plan
from streamconv.planning.target_rows import LOADED

DCP = "dcp"


def from_to(plan: Plan) -> str:
    """Return the model type and both sides: `qwen3_moe, hub -> transformers, fused`."""
    source, target = plan.source, plan.target
    before = source.form or _layouts(stack.row.layout.name for stack in source.stacks)
    layouts = _layouts(target.layout_for(stack).layout.name for stack in source.stacks)
    after = ", ".join(dict.fromkeys(filter(None, (target.form, layouts))))
    casts = [
        *([f"dequantized to {plan.casting.dequantize}"] if plan.casting.dequantize else []),
        *([f"cast to {plan.casting.dtype}"] if plan.casting.dtype else []),
        *([f"quantized to {plan.casting.quantize}"] if plan.casting.quantize else []),
        *(["as a DCP"] if plan.format.name == DCP else []),
        *([f"layers {plan.record.layers}"] if plan.record.layers else []),
    ]
    model_type = quoted(source.model_type or "no model type")
    return ", ".join([f"{model_type}, {before} -> {after}", *casts])


def _layouts(names: Iterable[str]) -> str:
    """Return the layouts of all stacks, each once."""
    return " and ".join(dict.fromkeys(names)) or "no experts"


def loading_line(plan: Plan, path: str) -> str:
    """Return the sentence on what loads the result, or that transformers does not.

    Args:
        plan: The conversion.
        path: Its target.
    """
    form, family = plan.target.form, plan.source.family
    place = shlex.quote(path)
    if plan.format.name == DCP:
        return f"load it with torch.distributed.checkpoint.load, checkpoint_id={path!r}"
    if plan.record.layers and not plan.record.layers.startswith("0:"):
        return f"look at it with `streamconv inspect {place}`"
    if form == LOADED:
        return f"load it with transformers: {_auto_class(plan)}.from_pretrained({path!r})"
    if form == HUB_NAMES.name or not plan.source.stacks:
        return (
            "load it with what loads the published checkpoint, such as vLLM, SGLang or "
            f"transformers; `streamconv check {place}` shows if transformers does"
        )
    if family is None or (form is None and plan.source.unknown_names) or plan.target.may_load:
        way = f"see if transformers loads it: `streamconv check {place}`"
        return way if plan.source.model_type else "add config.json, to find out what loads it"
    name = f"the form {form}" if form else "these layouts"
    way = ""
    if LOADED in family.forms:
        way = f"; `streamconv convert {place} DIR --to {LOADED}` makes a checkpoint that it loads"
    return f"transformers does not load {name}{way}"


def return_line(plan: Plan, path: str) -> str:
    """Return the command that restores the source's layouts; empty if there is none."""
    source, place = plan.source, shlex.quote(path)
    changed = [s for s in source.stacks if plan.target.layout_for(s) != s.row]
    if plan.casting != AS_STORED or not changed:
        return ""
    if source.form in FORMS and source.family is not None:
        return f"go back with `streamconv convert {place} DIR --to {source.form}`"
    layouts = {stack.row.layout.name for stack in source.stacks}
    if layouts == {PER_EXPERT}:
        return f"go back with `streamconv split {place} DIR`"
    if len(layouts) == 1:
        return f"go back with `streamconv convert {place} DIR --to {layouts.pop()}`"
    return ""


def next_steps(plan: Plan, path: str) -> list[str]:
    """Return what to do with the result: how it is loaded, and how to go back.

    The model type of a DCP of ours is in its metadata. A result that is made of it without a
    template has no config.json, so nobody can find out its model type.
    """
    lines = (loading_line(plan, path), return_line(plan, path))
    lacks_config = (
        bool(plan.source.model_type)
        and plan.checkpoint.format == DCP != plan.format.name
        and all(other.name != CONFIG for other in plan.copied)
    )
    first = f"add config.json to {quoted(path)}: a DCP has none, and nothing loads it without"
    return [*([first] if lacks_config else []), *filter(None, lines)]


def _auto_class(plan: Plan) -> str:
    """Return the class of transformers for the architecture that config.json names."""
    listed = plan.checkpoint.config.get("architectures")
    name = listed[0] if isinstance(listed, list) and listed else ""
    if isinstance(name, str) and name.isidentifier() and len(name) < 80:
        return name if not name.endswith("ForCausalLM") else "AutoModelForCausalLM"
    return "AutoModel"
