"""Output heads that config.json ties to the embeddings: both are one weight of the model.

A checkpoint of a tied model may store the head or leave it out. If the embeddings were trained and
the head is another checkpoint's, the two contradict each other.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from streamconv.checkpoint.config import config_value

HEAD = "lm_head.weight"
EMBEDDINGS = "embed_tokens.weight"
TIE = "tie_word_embeddings"
_SECTIONS = ("", "text_config", "llm_config", "language_config")


def heads_of_trained_embeddings(
    config: Mapping[str, Any], missing: Iterable[str], trained: Collection[str]
) -> Iterator[tuple[str, bool | None]]:
    """Yield each missing head whose embeddings were trained, and if config.json ties them.

    Args:
        config: The content of config.json.
        missing: Hub names of the tensors that training did not save.
        trained: Hub names of those that it did.

    Yields:
        The hub name of a head; and True if it is tied, False if it is not, None if config.json
        does not say it, or says both.
    """
    for name in missing:
        if name != HEAD and not name.endswith(f".{HEAD}"):
            continue
        part = name.removesuffix(HEAD)
        if any(other.startswith(part) and other.endswith(EMBEDDINGS) for other in trained):
            yield name, _is_tied(config, part.partition(".")[0])


def _is_tied(config: Mapping[str, Any], part: str) -> bool | None:
    """Return True if config.json ties the head of a part such as `thinker`, None if unclear."""
    own = config_value(config, f"{part}_config") if part else None
    section = own if isinstance(own, Mapping) else config
    said = {config_value(section, f"{path}.{TIE}") for path in _SECTIONS}
    values = {value for value in said if isinstance(value, bool)}
    return next(iter(values)) if len(values) == 1 else None
