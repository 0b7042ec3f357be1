"""Output heads that config.json ties to the embeddings: both are one weight of the model.

A checkpoint of a tied model may store the head or leave it out. If the embeddings were trained and
the head is another checkpoint's, the two contradict each other.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from streamconv.checkpoint.config import TEXT_SECTIONS, config_value

HEAD = "lm_head.weight"
EMBEDDINGS = "embed_tokens.weight"
TIE = "tie_word_embeddings"


def heads_of_trained_embeddings(
    config: Mapping[str, Any], missing: Iterable[str], trained: Collection[str]
) -> Iterator[tuple[str, bool | None]]:
    """Yield each missing head whose embeddings were trained, and True if config.json ties them.

    Args:
        config: The content of config.json.
        missing: Hub names of the tensors that training did not save.
        trained: Hub names of the tensors that training saved.

    Yields:
        The hub name of a head; and True if it is tied, False if it is not, None if config.json
        does not say so, or says both.
    """
    for name in missing:
        if name != HEAD and not name.endswith(f".{HEAD}"):
            continue
        part = name.removesuffix(HEAD)
        if any(_embeddings(part, trained)):
            yield name, _is_tied(config, part.partition(".")[0])


def tied_embeddings(config: Mapping[str, Any], head: str, stored: Iterable[str]) -> str | None:
    """Return the name of the embeddings that a head is tied to, or None.

    Args:
        config: The content of config.json.
        head: Name of any tensor that is not stored.
        stored: Names of the tensors that are stored.

    Returns:
        The name; None if `head` is not a head, config.json does not tie it, or there are several
        embeddings.
    """
    if head != HEAD and not head.endswith(f".{HEAD}"):
        return None
    part = head.removesuffix(HEAD)
    found = list(_embeddings(part, stored))
    if len(found) != 1 or not _is_tied(config, part.partition(".")[0]):
        return None
    return found[0]


def _embeddings(part: str, names: Iterable[str]) -> Iterator[str]:
    """Yield the names of the embeddings in a part of a model such as `thinker.`."""
    return (name for name in names if name.startswith(part) and name.endswith(EMBEDDINGS))


def _is_tied(config: Mapping[str, Any], part: str) -> bool | None:
    """Return True if config.json ties the head of a part such as `thinker`, None if unclear."""
    own = config_value(config, f"{part}_config") if part else None
    section = own if isinstance(own, Mapping) else config
    said = {config_value(section, f"{path}.{TIE}") for path in TEXT_SECTIONS}
    values = {value for value in said if isinstance(value, bool)}
    return next(iter(values)) if len(values) == 1 else None
