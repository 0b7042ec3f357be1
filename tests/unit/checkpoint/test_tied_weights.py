"""Heads that are tied to embeddings which were trained."""

from typing import Any

import pytest

from streamconv.checkpoint.tied_weights import heads_of_trained_embeddings

EMBEDDINGS = "model.embed_tokens.weight"
THINKER = {"thinker_config": {"text_config": {"tie_word_embeddings": True}}}


@pytest.mark.parametrize(
    ("config", "head", "trained", "found"),
    [
        ({"tie_word_embeddings": True}, "lm_head.weight", EMBEDDINGS, True),
        ({"tie_word_embeddings": False}, "lm_head.weight", EMBEDDINGS, False),
        ({}, "lm_head.weight", EMBEDDINGS, None),
        ({"tie_word_embeddings": "yes"}, "lm_head.weight", EMBEDDINGS, None),
        ({"text_config": {"tie_word_embeddings": True}}, "lm_head.weight", EMBEDDINGS, True),
        (
            {"tie_word_embeddings": True, "text_config": {"tie_word_embeddings": False}},
            "lm_head.weight",
            EMBEDDINGS,
            None,
        ),
        (THINKER, "thinker.lm_head.weight", f"thinker.{EMBEDDINGS}", True),
        (THINKER, "lm_head.weight", EMBEDDINGS, None),
    ],
)
def test_what_config_says(
    config: dict[str, Any], head: str, trained: str, found: bool | None
) -> None:
    assert dict(heads_of_trained_embeddings(config, [head, "x"], {trained})) == {head: found}


@pytest.mark.parametrize(
    ("missing", "trained"),
    [
        ("lm_head.bias", EMBEDDINGS),
        ("x_lm_head.weight", EMBEDDINGS),
        ("lm_head.weight", "model.norm.weight"),
        ("talker.lm_head.weight", f"thinker.{EMBEDDINGS}"),
    ],
)
def test_what_is_no_head_of_trained_embeddings(missing: str, trained: str) -> None:
    tied = {"tie_word_embeddings": True}
    assert not [*heads_of_trained_embeddings(tied, [missing], {trained})]
