"""Say in a line how the weights of a checkpoint are quantized."""

from collections.abc import Iterator
from dataclasses import dataclass

from streamconv.catalog.templates import EXPERTS
from streamconv.checkpoint.decoding import Decoding
from streamconv.quantization.announcement import Announcement
from streamconv.quantization.number_format import NamedFormat
from streamconv.quantization.recognize import QuantizedWeight, Recognized

_PRODUCERS = {"compressed-tensors": "compressed-tensors", "modelopt": "ModelOpt"}
_PRODUCERS |= {"gptq": "GPTQ", "awq": "AWQ"}
"""What people call the programs that config.json names, if their formats have other names."""


@dataclass(frozen=True, slots=True)
class FormatUse:
    """A number format in a checkpoint, with scales for blocks of one size."""

    format: str
    """Name of its row, such as `int4`."""
    says: str
    """In words: `compressed-tensors, int4 in groups of 32, experts only`."""
    weights: tuple[str, ...]
    """Names of the codes of the weights that are stored so."""


def format_uses(found: Recognized) -> tuple[FormatUse, ...]:
    """Return the number formats of a checkpoint, those of most weights first."""
    groups: dict[tuple[str, str], list[QuantizedWeight]] = {}
    for weight in found.weights.values():
        groups.setdefault((weight.format.name, _numbers(weight)), []).append(weight)
    return tuple(
        FormatUse(
            name,
            ", ".join(_words(found, numbers, weights)),
            tuple(weight.codes.name for weight in weights),
        )
        for (name, numbers), weights in sorted(
            groups.items(), key=lambda group: (-len(group[1]), group[0])
        )
    )


def _words(found: Recognized, numbers: str, weights: list[QuantizedWeight]) -> Iterator[str]:
    producer = next(filter(None, (_producer(each, weights[0]) for each in found.announced)), "")
    if producer:
        yield producer
    yield numbers
    yield _scope(weights)


def _producer(announced: Announcement, weight: QuantizedWeight) -> str:
    """Return the tool that made a weight, if a section of config.json can mean the weight."""
    if not announced.allows(weight.format) or isinstance(weight.format, NamedFormat):
        return ""
    return _PRODUCERS.get(str(announced.facts.get("method")), "")


def _numbers(weight: QuantizedWeight) -> str:
    """Return how the numbers of a weight are stored, and what one scale covers."""
    if weight.decoding is None:
        return weight.format.says
    return f"{weight.format.says} {_scales(weight.decoding)}"


def _scales(decoding: Decoding) -> str:
    """Return what one scale covers: a tensor, a channel, a group or a block."""
    scale = decoding.plane("scale")
    if scale is None:
        return ""
    (rows, columns), (height, width) = decoding.shape, scale.block
    if height >= rows and width >= columns:
        return "with a scale for each tensor"
    if height == 1 and width >= columns:
        return "with a scale for each channel"
    if height == 1 or width == 1:
        return f"in groups of {max(height, width)}"
    return f"in blocks of {height} x {width}"


def _scope(weights: list[QuantizedWeight]) -> str:
    """Return which weights these are: experts, others, or both."""
    of_experts = sum(EXPERTS in weight.codes.name for weight in weights)
    if of_experts == len(weights):
        return "experts only"
    return "other weights than experts" if not of_experts else "experts and other weights"
