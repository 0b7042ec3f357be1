"""Notes on experts that transformers does not load next to quantized weights."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from streamconv.catalog.companions import is_companion, split_name
from streamconv.catalog.templates import EXPERTS
from streamconv.checkpoint.stored_dtypes import is_quantized
from streamconv.checkpoint.tensor_names import pattern_of
from streamconv.checkpoint.types import TensorInfo
from streamconv.detection.detect import Detected
from streamconv.errors import quoted

_PACKED = "weight_packed"
_MERGED_BY_READERS = frozenset({_PACKED, "weight_scale_inv"})
"""Words of formats for which transformers has one module, or one list, for all experts."""


@dataclass(slots=True)
class _Experts:
    """The experts of a layer that are stored one by one."""

    are_quantized: dict[str, set[bool]] = field(default_factory=dict)
    """By projection, if the matrices of its experts are quantized."""
    words: set[str] = field(default_factory=set)


def expert_notes(
    tensors: Iterable[tuple[str, TensorInfo]], merged: Collection[str]
) -> Iterator[str]:
    """Yield notes on experts of which transformers loads other values than are written, or none.

    Args:
        tensors: The tensors of the output as they are read, with their hub names.
        merged: The patterns of the stacks that become merged, which have warnings of their own.
    """
    experts: dict[str, _Experts] = {}
    has_packed = False
    for name, info in tensors:
        stem, word = split_name(name)
        has_packed = has_packed or word == _PACKED
        prefix, found, rest = stem.rpartition(EXPERTS)
        number, _, projection = rest.partition(".")
        if not found or not number.isdigit() or pattern_of(f"{prefix}.") in merged:
            continue
        layer = experts.setdefault(prefix + found.rstrip("."), _Experts())
        layer.words.add(word)
        is_coded = is_quantized(info)
        if is_coded or (len(info.shape) > 1 and not is_companion(name)):
            layer.are_quantized.setdefault(projection, set()).add(is_coded)
    notes = (_note(pattern_of(module), layer, has_packed) for module, layer in experts.items())
    yield from dict.fromkeys(filter(None, notes))


def _note(pattern: str, layer: _Experts, has_packed: bool) -> str:
    """Return what to know about the experts of a layer; empty if they load."""
    kinds = layer.are_quantized.values()
    if any(len(each) > 1 for each in kinds):
        return (
            f"some experts of {quoted(pattern)} are quantized, and others are not: transformers "
            "gives their scales to other experts, or does not load them"
        )
    if len(set().union(*kinds)) > 1 and layer.words & _MERGED_BY_READERS:
        return (
            f"some projections of {quoted(pattern)} are quantized, and others are not: not on "
            "every host does transformers load experts of this format unless all of them are"
        )
    if has_packed and not any(True in each for each in kinds):
        return (
            f"{quoted(pattern)} are not quantized, and other weights are packed: transformers "
            "looks for packed experts then, and loads others only if they are merged, as with "
            "--to transformers"
        )
    return ""


def ending_in_a_block(written: Iterable[TensorInfo], source: Detected) -> Iterator[str]:
    """Yield the names of weights whose blocks transformers does not read as they are made.

    Args:
        written: The tensors of the output.
        source: What was detected in the source.
    """
    alone = _alone_in_a_matrix(source)
    for info in written:
        encoding = info.cast.encoding if info.cast else None
        if encoding is None or encoding.role != "codes" or 1 in encoding.block:
            continue
        sides = zip(encoding.shape, encoding.block, strict=True)
        projection = split_name(info.name)[0].rpartition(".")[2]
        is_joined = EXPERTS in info.name and projection not in alone
        ends_inside = is_joined and encoding.shape[0] % encoding.block[0]
        if ends_inside or any(size > block and size % block for size, block in sides):
            yield info.name


def _alone_in_a_matrix(source: Detected) -> frozenset[str]:
    """Return the projections that transformers merges with none of the same expert.

    Gate and up become one matrix, in which the blocks of up follow those of gate.
    """
    namings = {stack.row.naming for stack in source.stacks}
    if source.family is not None:
        namings.add(source.family.naming)
    axes = (names for naming in namings for names in naming.tokens.values())
    return frozenset(name for names in axes if len(names) == 1 for name in names)
