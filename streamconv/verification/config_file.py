"""Compare the text of an output's config.json with what it has to be.

Everything that does not have to change has to be as in the source, down to the digits of numbers
and white space. The code that edits the text in a conversion, `formats/json_edit.py`, is
deliberately not used here.
"""

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from streamconv.catalog.checkpoint_files import CONFIG
from streamconv.errors import quoted
from streamconv.formats.strict_json import parse_json
from streamconv.quantization.quantized_config import SECTION
from streamconv.verification.expected_config import ExpectedConfig, Path, value_at
from streamconv.verification.result import Difference

_PART = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s{}\[\],:"]+|[{}\[\],:]|\s+', re.S)


def has_to_change(source: bytes, expected: ExpectedConfig) -> bool:
    """Return True if the text of a source's config has to be changed."""
    text = source.decode("utf-8")
    if expected.section is not None or expected.exceptions:
        return True
    return [wanted.word for wanted in _wanted(text, expected)] != list(_words(text))


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
    if expected.section is not None:
        config = parse_json(output.encode(), CONFIG)
        described = config.get(SECTION) if isinstance(config, dict) else None
        fault = expected.section.fault(described)
        if fault is not None:
            yield Difference(CONFIG, f"has a {SECTION} that contradicts its tensors: {fault}")
            return
    if expected.exceptions:
        config, before = parse_json(output.encode(), CONFIG), parse_json(source.encode(), CONFIG)
        for path, exceptions in expected.exceptions.items():
            if not exceptions.allows(value_at(before, path), _found_at(config, path)):
                yield Difference(
                    CONFIG,
                    f"does not say in {quoted('.'.join(map(str, path)))} which of its modules are "
                    "dequantized",
                )
                return
    kept = (word for word in _words(output) if not expected.replaces(word.path))
    for wanted, found in zip(_wanted(source, expected), kept, strict=False):
        want = wanted.word
        if (want.path, want.text) != (found.path, found.text):
            yield _difference(want, found)
            return
        if spaces and not wanted.allows(found.before):
            yield Difference(CONFIG, f"has other white space before {_label(want)}")
            return


def _found_at(config: Any, path: Path) -> Any:
    """Return the value at a path of objects; None if there is none."""
    for key in path:
        config = config.get(key) if isinstance(config, dict) else None
    return config


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
    """The text between the word before it and this one; it includes the key of this one."""

    @property
    def is_value(self) -> bool:
        return self.text not in ("", "}", "]")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A word that the output has to have."""

    word: _Word
    follows_removed: bool
    """True if the source has a word right before it that must not be in the output."""

    def allows(self, before: str) -> bool:
        """Return True if an output may have this text before the word."""
        if before == self.word.before:
            return True
        return self.follows_removed and _squeezed(before) == _squeezed(self.word.before)


def _squeezed(text: str) -> str:
    """Return the text between two words without commas and white space."""
    return re.sub(r"[\s,]", "", text)


def _wanted(source: str, expected: ExpectedConfig) -> Iterator[_Wanted]:
    """Yield the words that the output has to have."""
    config = parse_json(source.encode(), CONFIG)
    cut: dict[Path, int] = {}
    follows_removed = False
    for word in _words(source):
        path = word.path
        if expected.replaces(path):
            follows_removed = True
            continue
        if expected.removes(path, config) or any(map(_is_cut, cut.items(), itertools.repeat(path))):
            follows_removed = True
            continue
        if path and word.is_value:
            old = value_at(config, path)
            new = expected.value(path, old)
            if isinstance(new, list) and len(new) < len(old):
                cut[path] = len(new)
            elif new != old:
                word = replace(word, text=json.dumps(new))  # noqa: PLW2901
        # white space may differ at the end, where a description is added
        is_end = expected.section is not None and path == () and not word.is_value
        yield _Wanted(word, follows_removed or is_end)
        follows_removed = False


def _is_cut(cut: tuple[Path, int], path: Path) -> bool:
    """Return True if a path leads to, or through, an item that was cut off the end of a list."""
    list_path, length = cut
    depth = len(list_path)
    item = path[depth] if len(path) > depth and path[:depth] == list_path else -1
    return isinstance(item, int) and item >= length


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
