"""Say why the tensors of a stem do not fit a number format."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from streamconv.catalog.companions import companion_suffixes, split_name
from streamconv.checkpoint.types import TensorInfo
from streamconv.errors import quoted
from streamconv.quantization.number_format import NumberFormat, Part, activation_words
from streamconv.quantization.placement import FREE, WHOLE, Codes
from streamconv.quantization.stems import Stem

_NOUNS = {
    "scale": "scales",
    "second": "second scale",
    "zero": "zero points",
    "index": "group index",
    "shape": "shape",
}


@dataclass(frozen=True, slots=True)
class Misfit:
    """The reason why tensors do not fit a format."""

    reason: str
    """A clause with both facts: what the tensors are, and what the format has."""
    matching: int
    """How well the tensors fit nevertheless: the closest format has the highest number."""


def wrong_part(row: NumberFormat, stem: Stem, codes: Codes) -> Misfit | None:
    """Return the tensor that the stem lacks, has in excess, or has in a dtype not of the format."""
    unknown = _unknown_words(row, stem)
    if unknown is not None:
        return Misfit(f"{quoted(unknown.name)} is no part of {row.name}", 1)
    for part in (row.codes, *row.others):
        several = [stem.tensors[word] for word in part.words if word in stem.tensors]
        if len(several) > 1:
            names = " and ".join(quoted(info.name) for info in several)
            return Misfit(f"it has {names}, and {row.name} has one of them", 3)
    for part in row.others:
        info = stem.find(part.words)
        if info is None and part.required:
            return Misfit(
                f"its {_NOUNS[part.role]} {quoted(_expected(codes.info, part))} {_is(part)} "
                "missing",
                0,
            )
        if info is not None and info.dtype not in part.dtypes:
            return Misfit(
                f"its {_NOUNS[part.role]} {quoted(info.name)} {_is(part)} {info.dtype}, and in "
                f"{row.name} {_is(part)} {' or '.join(sorted(part.dtypes))}",
                1,
            )
    return None


def wrong_zero(
    row: NumberFormat, stem: Stem, codes: Codes, stated: Mapping[str, set[Any]]
) -> Misfit | None:
    """Return the contradiction between the zero points and the symmetry that config.json states."""
    zero = row.part("zero")
    said = stated.get("symmetric", set())
    if zero is None or zero.required or len(said) != 1:
        return None
    info = stem.find(zero.words)
    if True in said and info is not None:
        return Misfit(
            f"it has the zero points {quoted(info.name)}, and config.json says that its codes "
            "are symmetric",
            2,
        )
    if False in said and info is None:
        return Misfit(
            f"its zero points {quoted(_expected(codes.info, zero))} are missing, and config.json "
            "says that its codes are not symmetric",
            2,
        )
    return None


def _unknown_words(row: NumberFormat, stem: Stem) -> TensorInfo | None:
    """Return a tensor of the stem that the format does not have; None if there is none."""
    known = row.words | activation_words() | {"bias"}
    return next((info for word, info in stem.tensors.items() if word not in known), None)


def misplaced(
    row: NumberFormat,
    codes: Codes,
    found: Mapping[Part, TensorInfo],
    stated: Mapping[str, set[Any]],
) -> str:
    """Return why the shapes do not fit, as a clause."""
    listed = ", ".join(f"{quoted(info.name)} {list(info.shape)}" for info in found.values())
    given = [
        f"{key} {', '.join(sorted('of a whole row' if n == WHOLE else str(n) for n in values))}"
        for key in ("block", "group")
        if (values := stated.get(key, set()) - {None})
    ]
    is_free = any(axis.per in FREE for part in found for axes in part.axes for axis in axes)
    unsaid = "; config.json does not say how large a group or block is" if is_free else ""
    said = f"; config.json says {' and '.join(given)}" if given else unsaid
    return f"{listed} does not divide its shape {list(codes.info.shape)} as {row.name} does{said}"


def _expected(codes: TensorInfo, part: Part) -> str:
    """Return the name that a missing part would have next to the codes."""
    stem, _ = split_name(codes.name)
    ending = codes.name[len(stem) :]
    word = part.words[0]
    if ending[:1] in (".", "_") and (ending[1:] == "weight" or not ending.startswith("_")):
        return f"{stem}{ending[0]}{word}"
    return stem + companion_suffixes().get(word, f"_{word}")


def _is(part: Part) -> str:
    return "are" if part.role in ("scale", "zero") else "is"
