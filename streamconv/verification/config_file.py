"""What config.json of an output has to say, found out from the headers of the output.

The keys that a conversion may change are rows of a table. What they have to say follows from the
tensors that are there: their main dtype, if any of them are quantized, which layers they are of.
All else has to be as in the source, down to the digits of its numbers. How a conversion edits the
text is in `formats/json_edit.py`, and deliberately not used here.
"""

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from streamconv.catalog.config_keys import ConfigKeys, config_keys
from streamconv.checkpoint.casting import Casting
from streamconv.checkpoint.stored_dtypes import is_quantized
from streamconv.checkpoint.types import CONFIG, Checkpoint
from streamconv.detection.detect import Detected
from streamconv.detection.layer_lists import LayerList
from streamconv.errors import quoted
from streamconv.formats.strict_json import parse_json
from streamconv.verification.result import Difference

_PART = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s{}\[\],:"]+|[{}\[\],:]|\s+', re.S)

Path = tuple[str | int, ...]
"""The names of members, and numbers of items, on the way to a value."""


@dataclass(frozen=True, slots=True)
class ExpectedConfig:
    """What the output has to say."""

    dtype: str | None
    """The value of dtypes; None if none is changed."""
    dtype_sections: frozenset[Path] | None
    """The sections whose dtypes are changed; None for all."""
    quantization: bool
    """True if descriptions of quantized weights stay."""
    layers: tuple[tuple[Path, LayerList, int], ...]
    """Sections that count layers, with the list and the number of the first layer not kept."""

    @property
    def left_out(self) -> frozenset[str]:
        """Names of files that may not be there."""
        return frozenset() if self.quantization else config_keys().quantization_files

    def value(self, path: Path, old: Any) -> Any:
        """Return the value that a member of the source's config has to have in the output."""
        keys = config_keys()
        section, key = path[:-1], path[-1]
        if any(isinstance(each, int) or each in keys.quantization for each in section):
            return old
        is_in_section = self.dtype_sections is None or section in self.dtype_sections
        if key in keys.dtype and isinstance(old, str) and is_in_section:
            return self.dtype or old
        for of, layers, stop in self.layers:
            if of == section:
                return _counted(keys, str(key), old, layers, stop)
        return old

    def differs_from(self, text: bytes) -> bool:
        """Return True if a source's config has to be changed."""
        source = text.decode("utf-8")
        return [wanted.word for wanted in _wanted(source, self)] != list(_words(source))

    def removes(self, path: Path, config: Any) -> bool:
        """Return True if the value at a path of the source's config has to be gone."""
        if self.quantization:
            return False
        members = len(list(itertools.takewhile(lambda key: isinstance(key, str), path)))
        return any(
            path[end] in config_keys().quantization
            and isinstance(_value(config, path[: end + 1]), dict)
            for end in range(members)
        )


AS_IN_SOURCE = ExpectedConfig(None, None, True, ())
"""Nothing is changed."""


def expected_config(
    source: Detected, stored: Checkpoint, output: Checkpoint, casting: Casting
) -> ExpectedConfig:
    """Return what config.json of `output` has to say.

    Args:
        source: What was detected in the source, with the casts of the output.
        stored: The source as it is stored.
        output: The checkpoint to verify.
        casting: The casts that it records.
    """
    template = stored.template
    undone = casting.dequantize is not None or (template is not None and template.is_dequantized)
    sections = [
        tuple(filter(None, each.section.split(".")))
        for each in source.layer_lists
        if each.section is not None
    ]
    around = {section[:end] for section in [(), *sections] for end in range(len(section) + 1)}
    kept = output.record.kept if output.record else None
    return ExpectedConfig(
        dtype=_main_dtype(output) if casting.dtype or undone else None,
        dtype_sections=None if casting.dtype else frozenset(around),
        quantization=not (undone or stored.format == "dcp")
        or any(map(is_quantized, output.tensors.values())),
        layers=tuple(
            (tuple(filter(None, each.section.split("."))), each, kept.stop)
            for each in source.layer_lists
            if kept is not None and kept.start == 0 and each.section is not None
        ),
    )


def _main_dtype(output: Checkpoint) -> str | None:
    """Return the name of the dtype that takes the most elements of floating-point tensors."""
    sizes = dict.fromkeys(config_keys().dtype_names, 0)
    for info in output.tensors.values():
        if info.dtype in sizes:
            sizes[info.dtype] += info.elements
    largest = max(sizes, key=lambda dtype: sizes[dtype])
    return config_keys().dtype_names[largest] if sizes[largest] else None


def _counted(keys: ConfigKeys, key: str, old: Any, layers: LayerList, stop: int) -> Any:
    """Return the value of a key that may count the layers, or have an item for each."""
    count, after = layers.count or 0, layers.after
    left, left_after = min(count, stop), min(max(stop - count, 0), layers.layers - count)
    if key in keys.layer_counts and old == count:
        return left
    if key in keys.layers_after and old == after and layers.layers > count:
        return left_after
    if key in keys.layer_lists and isinstance(old, list | str) and left < count:
        return old[:left] if len(old) in (count, count + after) else old
    return old


# --- comparing ---------------------------------------------------------------------------------


def config_differences(
    source: str, output: str, expected: ExpectedConfig, *, spaces: bool = True
) -> Iterator[Difference]:
    """Yield how the text of an output's config differs from what it has to be, if it does.

    Args:
        source: The text of the source's config.json.
        output: The text of the output's.
        expected: What may differ, and how.
        spaces: Compare white space and the spelling of keys, too.
    """
    for wanted, found in zip(_wanted(source, expected), _words(output), strict=False):
        want = wanted.word
        if (want.path, want.text) != (found.path, found.text):
            yield _difference(want, found)
            return
        if spaces and not wanted.allows(found.before):
            yield Difference(CONFIG, f"has other white space before {_label(want)}")
            return


def _difference(want: "_Word", found: "_Word") -> Difference:
    if want.path == found.path and want.is_value and found.is_value:
        values = f"{quoted(found.text)}, not {quoted(want.text)}"
        return Difference(CONFIG, f"says {_label(want)} = {values}")
    return Difference(CONFIG, f"has {_label(found)} where {_label(want)} has to be")


def _label(word: "_Word") -> str:
    if not word.is_value:
        return f"the end of {quoted('.'.join(map(str, word.path)))}" if word.path else "its end"
    return quoted(".".join(map(str, word.path))) if word.path else "its content"


@dataclass(frozen=True, slots=True)
class _Word:
    """A value of a JSON text, or the beginning or end of an object or list."""

    path: Path
    text: str
    """Empty for the end of the text."""
    before: str
    """What separates it from the word before it, with its own key."""

    @property
    def is_value(self) -> bool:
        return self.text not in ("", "}", "]")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A word that the output has to have."""

    word: _Word
    follows_removed: bool
    """True if the source has a word before it that the output has not."""

    def allows(self, before: str) -> bool:
        """Return True if an output may have this text before the word."""
        if before == self.word.before:
            return True
        return self.follows_removed and _squeezed(before) == _squeezed(self.word.before)


def _squeezed(text: str) -> str:
    """Return what separates two words without commas and white space."""
    return re.sub(r"[\s,]", "", text)


def _wanted(source: str, expected: ExpectedConfig) -> Iterator[_Wanted]:
    """Yield the words that the output has to have."""
    config = parse_json(source.encode(), CONFIG)
    cut: dict[Path, int] = {}
    follows_removed = False
    for word in _words(source):
        path = word.path
        if expected.removes(path, config) or any(map(_is_cut, cut.items(), itertools.repeat(path))):
            follows_removed = True
            continue
        if path and word.is_value:
            old = _value(config, path)
            new = expected.value(path, old)
            if isinstance(new, list) and len(new) < len(old):
                cut[path] = len(new)
            elif new != old:
                word = replace(word, text=json.dumps(new))  # noqa: PLW2901
        yield _Wanted(word, follows_removed)
        follows_removed = False


def _is_cut(cut: tuple[Path, int], path: Path) -> bool:
    """Return True if a path leads to an item of a list from a number on, or through one."""
    of, length = cut
    item = path[len(of)] if len(path) > len(of) and path[: len(of)] == of else -1
    return isinstance(item, int) and item >= length


def _value(config: Any, path: Path) -> Any:
    for key in path:
        config = config[key]
    return config


@dataclass(slots=True)
class _Open:
    """An object or list that has not ended yet."""

    path: Path
    is_list: bool
    items: int = 0

    def next(self, key: str | None) -> Path:
        """Return the path of the next value."""
        self.items += 1
        return (*self.path, self.items - 1 if key is None else key)


def _words(text: str) -> Iterator[_Word]:
    """Yield the words of a JSON text in their order, and its end."""
    opened: list[_Open] = []
    key: str | None = None
    before = ""
    for part in _PART.findall(text):
        if part.isspace() or part in ":,":
            before += part
        elif opened and not opened[-1].is_list and key is None and part != "}":
            before += part
            key = parse_json(part.encode(), CONFIG)
        elif part in "}]":
            yield _Word(opened.pop().path, part, before)
            before = ""
        else:
            path = opened[-1].next(key) if opened else ()
            yield _Word(path, part, before)
            key, before = None, ""
            if part in "{[":
                opened.append(_Open(path, part == "["))
    yield _Word((), "", before)
