"""A trained checkpoint and its template that do not fit together."""

import pytest
from memory_source import MemorySource

from streamconv.catalog.catalog import default_catalog
from streamconv.errors import BadCheckpoint
from streamconv.sources.wrappers.template_comparison import (
    Comparison,
    check_comparison,
    compare_with_template,
)

CONFIG = {"model_type": "qwen3_moe"}
HUB = {"norm": ("BF16", (2,), b"norm"), "head": ("BF16", (1, 2), b"head")}


def run(**tensors: tuple[str, tuple[int, ...], bytes]) -> MemorySource:
    return MemorySource(tensors, {}, location="run", file="__0_0.distcp")


def compared(source: MemorySource) -> Comparison:
    template = MemorySource(HUB, {}, location="hub", config=CONFIG)
    return compare_with_template(source.checkpoint, template.checkpoint, default_catalog(), None)


def refused(source: MemorySource, *, fill: bool = False, casts: bool = False) -> tuple[str, str]:
    with pytest.raises(BadCheckpoint) as caught:
        check_comparison(compared(source), fill=fill, casts=casts)
    return caught.value.message, caught.value.hint


def test_what_both_have_and_what_one_has() -> None:
    """A tensor of both is paired, whatever its bytes."""
    comparison = compared(run(norm=("BF16", (2,), b"NORM"), lora=("BF16", (1,), b"LO")))
    assert [(have.tensors[0].name, want.dtype) for have, want in comparison.pairs] == [
        ("norm", "BF16")
    ]
    assert list(comparison.missing) == ["head"]
    assert comparison.unknown == ("lora",)
    assert not comparison.is_dequantized


def test_a_missing_tensor() -> None:
    message, hint = refused(run(norm=("BF16", (2,), b"NORM")))
    assert message == (
        "cannot use hub as the template of run: the checkpoint lacks 1 of its tensors: head (1)"
    )
    assert hint == "add --fill-from-template to take them from the template"


@pytest.mark.parametrize("fill", [False, True])
def test_missing_and_unknown_tensors(fill: bool) -> None:
    """As with a wrong prefix, when everything is missing and everything unknown."""
    source = run(**{"net.norm": ("BF16", (2,), b"NORM"), "head": ("BF16", (1, 2), b"HEAD")})
    message, hint = refused(source, fill=fill)
    assert message == (
        "cannot use hub as the template of run: the checkpoint lacks 1 of its tensors: norm (1); "
        "the template does not know net.norm (1)"
    )
    assert hint.startswith("check --dcp-prefix and --preset")


@pytest.mark.parametrize("casts", [False, True])
def test_another_shape(casts: bool) -> None:
    source = run(norm=("BF16", (2,), b"NORM"), head=("BF16", (2, 1), b"HEAD"))
    message, hint = refused(source, casts=casts)
    assert message == (
        "cannot use hub as the template of run: head is BF16 [1, 2] in the template and "
        "BF16 [2, 1] in the checkpoint"
    )
    assert hint.startswith("name the hub checkpoint that training began with")


def test_another_dtype() -> None:
    """It may differ if it is cast."""
    source = run(norm=("F32", (2,), b"NORMNORM"), head=("BF16", (1, 2), b"HEAD"))
    message, hint = refused(source)
    assert "norm is BF16 [2] in the template and F32 [2] in the checkpoint" in message
    assert "add --dtype" in hint
    check_comparison(compared(source), fill=False, casts=True)
