"""An option that takes a few words: in any case, and a wrong one with the word that was meant."""

import click
import pytest

from streamconv.cli._choice import ALIASES, Word

DTYPES = ("bf16", "fp16", "fp32")


@pytest.mark.parametrize("given", ["bf16", "BF16", "Bf16"])
def test_case_does_not_matter(given: str) -> None:
    assert Word(*DTYPES).convert(given, None, None) == "bf16"


def notes(given: str, *words: str) -> list[str]:
    with pytest.raises(click.BadParameter) as caught:
        Word(*words).convert(given, None, None)
    return list(getattr(caught.value, "__notes__", []))


@pytest.mark.parametrize(
    ("given", "meant"),
    [("torch.bfloat16", "bf16"), ("HALF", "fp16"), ("fp23", "fp32"), ("f32", "fp32")],
)
def test_a_wrong_word_is_answered_with_the_one_that_was_meant(given: str, meant: str) -> None:
    (note,) = notes(given, *DTYPES)
    assert meant in note


def test_an_alias_counts_only_where_its_word_is_a_choice() -> None:
    """The `hf` of another option means nothing here; neither does a word that is like none."""
    assert notes("hf", *DTYPES) == notes("zzzzz", *DTYPES) == []
    assert notes("hf", "safetensors", "dcp") == ["did you mean safetensors?"]


def test_no_alias_is_a_word_itself() -> None:
    assert ALIASES.keys().isdisjoint(ALIASES.values())
