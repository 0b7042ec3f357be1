"""Recognize the quantized weights of a checkpoint.

Names, dtypes and shapes say what formats a weight can have, and config.json what formats there
are. Both have to agree.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from streamconv.checkpoint.decoding import Decoding
from streamconv.checkpoint.types import Checkpoint, TensorInfo
from streamconv.errors import BadCheckpoint, quoted
from streamconv.quantization.announcement import Announcement, announcements
from streamconv.quantization.fit import fit, parts_of
from streamconv.quantization.misfits import Misfit
from streamconv.quantization.number_format import (
    NamedFormat,
    NumberFormat,
    activation_words,
    named_formats,
    number_formats,
)
from streamconv.quantization.placement import WHOLE, holds_experts
from streamconv.quantization.stems import CODES, Stem, decoded_name, looks_quantized, stems
from streamconv.quantization.stored_shape import ReadSmall, stored_shape


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """A weight that is stored as codes."""

    name: str
    """Name of the decoded weight: `a.weight`, also if its codes are `a.qweight`."""
    codes: TensorInfo
    format: NumberFormat | NamedFormat
    decoding: Decoding | None = None
    """How it is decoded; None if its format is known by name only."""
    companions: tuple[TensorInfo, ...] = ()
    """The tensors that are read together with the codes, in the order of the decoding's planes."""
    dropped: tuple[TensorInfo, ...] = ()
    """Tensors that are of no use once the weight is decoded: those for its activations."""


@dataclass(frozen=True, slots=True)
class Recognized:
    """The number formats of a checkpoint."""

    weights: Mapping[str, QuantizedWeight]
    """By the name of the codes, in the order of the checkpoint."""
    announced: tuple[Announcement, ...] = field(default=())
    """What config.json says."""
    unknown: Mapping[str, str] = field(default_factory=dict)
    """Why no format fits, for each such weight, by the name of one of its tensors."""


def recognize(
    checkpoint: Checkpoint, read: ReadSmall | None = None, *, strict: bool = True
) -> Recognized:
    """Find the weights that are stored as codes, and how.

    Args:
        checkpoint: The checkpoint, in which some weights may be dequantized already.
        read: Reads the shapes that tensors record. Without it, shapes are solved, which fails for
            matrices whose last element is not full.
        strict: False to list weights that no format fits, instead of raising.

    Raises:
        BadCheckpoint: Scales are missing or left over, do not fit their codes, or are not those
            of the format that config.json says.
    """
    announced = announcements(checkpoint.config, checkpoint.quant_config)
    if not strict and not any(info.dtype in CODES for info in checkpoint.tensors.values()):
        return Recognized({}, announced)
    stored = {name: info for name, info in checkpoint.tensors.items() if _is_stored(info)}
    return _Recognizer(announced, read).recognize(stored, strict=strict)


def _is_stored(info: TensorInfo) -> bool:
    """Return True if a tensor is not cast, or is one that a weight is quantized to."""
    return info.cast is None or info.cast.encoding is not None


_Signature = tuple[bool, tuple[tuple[str, str, tuple[int, ...]], ...]]
"""If a stem holds several experts; and word, dtype and shape of each of its tensors."""
_Outcome = tuple[NumberFormat | NamedFormat, Decoding | None]


class _Recognizer:
    """Recognizes stems. Those that are alike are examined only once."""

    def __init__(self, announced: tuple[Announcement, ...], read: ReadSmall | None) -> None:
        self._announced = announced
        self._read = read
        self._known: dict[_Signature, _Outcome | None] = {}

    def recognize(self, tensors: Mapping[str, TensorInfo], *, strict: bool) -> Recognized:
        weights: dict[str, QuantizedWeight] = {}
        unknown: dict[str, str] = {}
        for stem in stems(tensors).values():
            try:
                weight = self._weight(stem)
            except BadCheckpoint as error:
                if strict:
                    raise
                if self._announced or len(stem.tensors) > 1:  # else it may hold plain numbers
                    unknown[next(iter(stem.tensors.values())).name] = error.message
                continue
            if weight is not None:
                weights[weight.codes.name] = weight
        return Recognized(weights, self._announced, unknown)

    def _weight(self, stem: Stem) -> QuantizedWeight | None:
        """Return a stem as a quantized weight; None if it is not quantized."""
        if not looks_quantized(stem):
            return None
        parts = tuple((word, info.dtype, info.shape) for word, info in stem.tensors.items())
        signature = (holds_experts(stem.name), parts)
        if signature not in self._known:
            self._known[signature] = self._outcome(stem)
        outcome = self._known[signature]
        if outcome is None:
            return None
        row, decoding = outcome
        if isinstance(row, NamedFormat):
            codes = _codes_of_named(stem)
            return QuantizedWeight(codes.name, codes, row)
        (codes,) = [info for info in [stem.find(row.codes.words)] if info is not None]
        return QuantizedWeight(
            decoded_name(codes.name),
            codes,
            row,
            decoding,
            tuple(info for _, info in parts_of(row, stem)),
            tuple(info for word, info in stem.tensors.items() if word in activation_words()),
        )

    def _outcome(self, stem: Stem) -> _Outcome | None:
        """Return the format of a stem; None if it is not quantized. Raises BadCheckpoint."""
        named = self._named(stem)
        if named is not None:
            return named, None
        allowed: list[tuple[NumberFormat, Decoding]] = []
        others: list[NumberFormat] = []
        misfits: list[tuple[bool, Misfit, NumberFormat]] = []
        for row in number_formats().values():
            found = fit(row, stem, self._stated(row), stored_shape(row, stem, self._read))
            if isinstance(found, Misfit):
                misfits.append((self._allowed(row), found, row))
            elif self._allowed(row):
                allowed.append((row, found))
            else:
                others.append(row)
        if len({_meaning(decoding) for _, decoding in allowed}) > 1:
            raise self._ambiguity(stem, [row for row, _ in allowed])
        if allowed:
            return allowed[0]
        nearly = [each for each in misfits if each[0] and self._fits_unstated(each[2], stem)]
        if others and not nearly:
            raise self._contradiction(stem, others[0])
        raise self._misfit(stem, nearly or misfits)

    def _fits_unstated(self, row: NumberFormat, stem: Stem) -> bool:
        """Return True if a stem fits a format but for the sizes and symmetry of config.json."""
        return isinstance(fit(row, stem, {}, stored_shape(row, stem, self._read)), Decoding)

    def _stated(self, row: NumberFormat) -> dict[str, set[Any]]:
        """Return what config.json says of blocks and groups if it means this format."""
        stated: dict[str, set[Any]] = {}
        for announced in self._announced:
            if announced.allows(row):
                for key in ("group", "block", "symmetric"):
                    value = announced.facts.get(key)
                    if key == "group" and announced.facts.get("strategy") == "channel":
                        value = WHOLE
                    stated.setdefault(key, set()).add(
                        tuple(value) if isinstance(value, list) else value
                    )
        return {key: values for key, values in stated.items() if values != {None}}

    def _allowed(self, row: NumberFormat | NamedFormat) -> bool:
        if not self._announced:
            return isinstance(row, NamedFormat) or not row.has_to_be_announced
        return any(each.allows(row) for each in self._announced)

    def _named(self, stem: Stem) -> NamedFormat | None:
        """Return the format of a stem if it is one that is known by name only."""
        for row in named_formats().values():
            said = bool(self._announced) and any(each.allows(row) for each in self._announced)
            if row.words & stem.tensors.keys() or said:
                return row
        return None

    def _contradiction(self, stem: Stem, row: NumberFormat) -> BadCheckpoint:
        info = stem.find(row.codes.words)
        shown = "" if info is None else f" {info.dtype} {list(info.shape)}"
        said = " and ".join(each.text for each in self._announced)
        return BadCheckpoint(
            f"tensor {quoted(info.name if info else stem.name)}{shown} is stored as {row.name}, "
            f"and config.json does not say so: {said}"
        )

    def _ambiguity(self, stem: Stem, rows: list[NumberFormat]) -> BadCheckpoint:
        info = next(filter(None, (stem.find(row.codes.words) for row in rows)))
        names = " or ".join(row.name for row in rows)
        return BadCheckpoint(
            f"tensor {quoted(info.name)} {info.dtype} {list(info.shape)} can be {names}, and "
            "config.json does not say which"
        )

    def _misfit(
        self, stem: Stem, misfits: Iterable[tuple[bool, Misfit, NumberFormat]]
    ) -> BadCheckpoint:
        """Return the error for a stem that fits no format: why it is not of the closest one."""
        allowed, closest, row = max(
            misfits, key=lambda each: (_closeness(each[2], stem), each[0], each[1].matching)
        )
        info = stem.find(row.codes.words)
        if info is None:
            scales = next(iter(stem.tensors.values()))
            return BadCheckpoint(
                f"tensor {quoted(scales.name)} is a part of a quantized weight, and the weight "
                "itself is missing"
            )
        said = ""
        if self._announced and not allowed:
            said = f"; {' and '.join(each.text for each in self._announced)}"
        return BadCheckpoint(f"cannot decode tensor {quoted(info.name)}: {closest.reason}{said}")


def _meaning(decoding: Decoding) -> Decoding:
    """Return a decoding without its name, with blocks that are no larger than the matrix."""
    planes = tuple(
        (role, replace(plane, block=_smaller(plane.block, decoding.shape)))
        for role, plane in decoding.planes
    )
    return replace(decoding, format="", planes=planes)


def _smaller(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    return min(one[0], other[0]), min(one[1], other[1])


def _codes_of_named(stem: Stem) -> TensorInfo:
    return stem.tensors.get("weight") or next(iter(stem.tensors.values()))


def _closeness(row: NumberFormat, stem: Stem) -> tuple[bool, int]:
    """Return how much of a stem a format knows: its codes first, then the other words."""
    info = stem.find(row.codes.words)
    return info is not None and info.dtype in row.codes.dtypes, len(row.words & stem.tensors.keys())
