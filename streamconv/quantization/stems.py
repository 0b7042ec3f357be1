"""Group the tensors of a checkpoint by stem: a weight with everything that belongs to it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from streamconv.catalog.companions import split_name
from streamconv.checkpoint.types import TensorInfo
from streamconv.quantization.number_format import part_words

WEIGHT = "weight"

FLOATS8 = frozenset({"F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"})
"""Dtypes of weights that mean nothing without scales."""
CODES = frozenset({*FLOATS8, "I8", "U8", "I32", "U32", "F4"})
"""Dtypes that codes can have."""

_ENDINGS_OF_ANYTHING = frozenset({"_scale", ".scale", "_scales", ".scales", "_biases", ".biases"})
"""Endings that tensors which belong to no weight may have, too."""


@dataclass(slots=True)
class Stem:
    """Tensors whose names begin alike, by the word that ends each name, such as `weight_scale`."""

    name: str
    tensors: dict[str, TensorInfo] = field(default_factory=dict)

    def find(self, words: Iterable[str]) -> TensorInfo | None:
        """Return the tensor that has one of the words, or None."""
        return next((self.tensors[word] for word in words if word in self.tensors), None)


def stems(tensors: Mapping[str, TensorInfo]) -> dict[str, Stem]:
    """Return the stems by name, in the order of their first tensors."""
    found: dict[str, Stem] = {}
    for name, info in tensors.items():
        stem, word = split_name(name)
        found.setdefault(stem, Stem(stem)).tensors.setdefault(word, info)
    return found


def decoded_name(codes: str) -> str:
    """Return the name of a weight, given that of its codes: `a.weight` for `a.weight_packed`."""
    stem, word = split_name(codes)
    if word == WEIGHT:
        return codes
    ending = codes[len(stem) :]
    is_part = ending[1:] == word and ending[0] in "._"
    return f"{stem}{ending[0]}{WEIGHT}" if is_part else stem


def belongs_to_a_weight(name: str) -> bool:
    """Return True if a tensor of this name can be nothing but a part of a quantized weight."""
    stem, word = split_name(name)
    return word in part_words() and name[len(stem) :] not in _ENDINGS_OF_ANYTHING


def looks_quantized(stem: Stem) -> bool:
    """Return True if a stem looks like a quantized weight, so that some format has to fit it.

    Either its codes show that, or a tensor that belongs to them.
    """
    if any(info.dtype in FLOATS8 for word, info in stem.tensors.items() if word == WEIGHT):
        return True
    if len(stem.tensors) == 1 and not any(
        belongs_to_a_weight(info.name) for info in stem.tensors.values()
    ):
        return False
    present = part_words() & stem.tensors.keys()
    if not present:
        return False
    weight = stem.tensors.get(WEIGHT)
    if weight is not None and weight.dtype not in CODES:
        return any(belongs_to_a_weight(stem.tensors[word].name) for word in present)
    return weight is not None or any(
        belongs_to_a_weight(stem.tensors[word].name) for word in present
    )
