"""What verification expects of a description: compared with the one that a conversion writes."""

import copy
import re
import time
from typing import Any

import pytest

from streamconv.catalog.encodings import encoding_names, encoding_row
from streamconv.checkpoint.types import TensorInfo
from streamconv.lazy.arrays import nbytes_of
from streamconv.quantization.quantized_config import quantized_section
from streamconv.verification.quantized_section import Description, Modules

LAYER = "model.layers.0."
EXPERTS = f"{LAYER}mlp.experts"
CODES = {
    "fp8-block": ("weight", "F8_E4M3", (256, 256), "weight_scale_inv", (2, 2)),
    "fp8-channel": ("weight", "F8_E4M3", (256, 256), "weight_scale", (256, 1)),
    "int4-g32": ("weight_packed", "I32", (256, 32), "weight_scale", (256, 8)),
    "mxfp4": ("weight_packed", "U8", (256, 128), "weight_scale", (256, 8)),
}
ROWS = [*encoding_names()]


def info(name: str, dtype: str, *shape: int) -> TensorInfo:
    return TensorInfo(name, dtype, shape, "", 0, nbytes_of(dtype, shape))


def tensors(kind: str) -> list[TensorInfo]:
    """Attention and one projection of an expert are quantized."""
    word, dtype, shape, scale, scales = CODES[kind]
    made = [info(f"{LAYER}{name}.weight", "BF16", 256, 256) for name in ("norm.x", "mlp.gate")]
    made += [info(f"{EXPERTS}.0.{name}_proj.weight", "BF16", 256, 256) for name in ("up", "down")]
    for stem in (f"{LAYER}self_attn.q_proj", f"{EXPERTS}.0.gate_proj"):
        made += [info(f"{stem}.{word}", dtype, *shape), info(f"{stem}.{scale}", "BF16", *scales)]
    return made


def description(kind: str, scale: str | None = None) -> tuple[Description, dict[str, Any]]:
    row, infos = encoding_row(kind, scale), tensors(kind)
    return Description.of(row, infos), copy.deepcopy(quantized_section(row, infos))


@pytest.mark.parametrize(("kind", "scale"), [*((k, None) for k in ROWS), ("fp8-block", "ue8m0")])
def test_what_is_written_is_what_is_expected(kind: str, scale: str | None) -> None:
    """The two are derived apart: the one is written in a row, the other follows from its codes."""
    expected, section = description(kind, scale)
    assert expected.fault(section) is None


def key_of(section: dict[str, Any]) -> str:
    return "ignore" if "ignore" in section else "modules_to_not_convert"


def values(section: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The paths of all values of a section that are no tables."""
    found = []
    for key, value in section.items():
        inner = isinstance(value, dict)
        found += values(value, (*path, key)) if inner else [(*path, key)]
    return found


@pytest.mark.parametrize("kind", ROWS)
def test_every_value_counts(kind: str) -> None:
    expected, whole = description(kind)
    for path in values(whole):
        if path == (key_of(whole),):
            continue
        for change in ("other", None):
            section = copy.deepcopy(whole)
            table = section
            for key in path[:-1]:
                table = table[key]
            if change is None:
                del table[path[-1]]
            else:
                table[path[-1]] = change
            assert expected.fault(section), (path, change)
    assert expected.fault({**whole, "more": 1})
    assert expected.fault(None)


@pytest.mark.parametrize("kind", ROWS)
def test_every_module_counts(kind: str) -> None:
    """Each that is left out is missed, and each that does not belong there is named."""
    expected, whole = description(kind)
    key = key_of(whole)
    listed = whole[key]
    assert {"lm_head", f"{LAYER}mlp.gate", f"{EXPERTS}.0.up_proj"} <= {*listed}
    for name in listed:
        fault = expected.fault({**whole, key: [each for each in listed if each != name]})
        assert fault is not None
        assert name in fault
    for name, why in [
        (f"{EXPERTS}.0.gate_proj", "not an unquantized module"),
        ("model.layers.7.mlp.gate", "not an unquantized module"),
        ("re:^model", "which is quantized"),
        (f"re:^{re.escape(EXPERTS)}", "which is quantized"),
        (f"re:^{EXPERTS}", "not an unquantized module"),
    ]:
        more = Modules.of(tensors(kind)).fault_of_list("compressed-tensors", listed, [name], [])
        assert more is not None
        assert why in more
    assert expected.fault({**whole, key: listed[::-1]})
    assert expected.fault({**whole, key: "lm_head"})


def test_experts_that_stay_need_a_pattern() -> None:
    """compressed-tensors compares whole names; the loader of FP8 takes a module for all in it."""
    infos = [info(f"{EXPERTS}.0.up_proj.weight", "BF16", 64, 64)]
    infos += [info(f"{LAYER}q.weight", "F8_E4M3", 64, 64)]
    modules = Modules.of(infos)
    wanted = {f"{EXPERTS}.0.up_proj"}
    assert modules.fault_of_list("fp8", [EXPERTS], [EXPERTS], wanted) is None
    fault = modules.fault_of_list("compressed-tensors", [EXPERTS], [EXPERTS], wanted)
    assert fault is not None
    assert "does not list" in fault
    both = [EXPERTS, rf"re:^{re.escape(EXPERTS)}\."]
    assert modules.fault_of_list("compressed-tensors", both, both, wanted) is None


@pytest.mark.parametrize(
    "pattern", ["re:a{99999999999999999999}", "re:" + "(" * 5000, "re:(?:(?:[a-z.0]+)+)+!", "re:("]
)
def test_patterns_of_others_are_not_matched(pattern: str) -> None:
    """One is wrong, one too deep, and one would take hours. All of them may be in the source."""
    modules = Modules.of(tensors("int4-g32"))
    assert (
        modules.fault_of_list("compressed-tensors", [pattern, "lm_head"], [], ["lm_head"]) is None
    )
    fault = modules.fault_of_list("compressed-tensors", [pattern], [pattern], [])
    assert fault is not None
    assert "not an unquantized module" in fault


def test_a_list_of_many_experts() -> None:
    """A list is looked through once, not once for each module."""
    experts = [f"model.layers.{layer}.mlp.experts.{n}" for layer in range(60) for n in range(256)]
    up = [f"{expert}.up_proj" for expert in experts]
    down = [f"{expert}.down_proj" for expert in experts]
    modules = Modules(frozenset(down), frozenset(up))
    begin = time.monotonic()
    assert modules.fault_of_list("compressed-tensors", up, up, up) is None
    assert modules.fault_of_list("fp8", up, up, up) is None
    assert time.monotonic() - begin < 20


@pytest.mark.parametrize("kind", ROWS)
def test_scales_of_other_blocks(kind: str) -> None:
    infos = tensors(kind)
    *rest, last = infos
    infos = [*rest, last._replace(shape=(last.shape[0] // 2, last.shape[1]))]
    fault = Description.of(encoding_row(kind), infos).fault({})
    assert fault is not None
    assert "and its blocks are" in fault
