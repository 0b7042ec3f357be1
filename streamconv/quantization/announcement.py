"""What config.json says about number formats, and which rows of the table it permits."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from streamconv.catalog.checkpoint_files import CONFIG, QUANT_CONFIG
from streamconv.errors import quoted
from streamconv.quantization.number_format import (
    NamedFormat,
    NumberFormat,
    Statement,
    named_formats,
    number_formats,
)
from streamconv.quantization.placement import BLOCK_AXES, USUAL_BLOCK

SECTIONS = ("quantization_config", "compression_config", "quantization")
"""Keys of a section that describes number formats, anywhere in config.json."""

_KEYS = {
    "method": ("quant_method",),
    "format": ("format",),
    "algo": ("quant_algo",),
    "bits": ("num_bits", "bits", "w_bit"),
    "type": ("type",),
    "strategy": ("strategy",),
    "group": ("group_size", "q_group_size"),
    "block": ("weight_block_size", "block_structure"),
    "checkpoint_format": ("checkpoint_format",),
    "version": ("version",),
    "symmetric": ("symmetric", "sym"),
}
"""For each fact, the keys of a section, or of a group in it, that state it."""
_MAX_DEPTH = 4


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a section of config.json says about one number format."""

    path: str
    """Path of keys to the section: `text_config.quantization_config`. It names the file, too, if
    facts are from hf_quant_config.json."""
    facts: Mapping[str, Any]
    """By the words of `quantization.toml`: method, format, bits, group and so on."""

    @property
    def method(self) -> str:
        """Its `quant_method`; empty if it has none."""
        return str(self.facts.get("method", ""))

    def allows(self, row: NumberFormat | NamedFormat) -> bool:
        """Return True if the format is one that the section can mean."""
        return any(self._fits(statement) for statement in row.config)

    def _fits(self, statement: Statement) -> bool:
        for key, allowed in statement.items():
            value = self.facts.get(key)
            if not ("" in allowed if value is None else value in allowed):
                return False
        return True

    @property
    def text(self) -> str:
        """What the section says, as text for messages."""
        facts = ", ".join(f"{key} {value}" for key, value in self.facts.items())
        return f"{quoted(self.path)} says {quoted(facts)}"


def announcements(
    config: Mapping[str, Any], quant_config: Mapping[str, Any] | None = None
) -> tuple[Announcement, ...]:
    """Return what config.json says about number formats, each statement once.

    A section with several groups makes one statement per group.

    Args:
        config: The content of config.json.
        quant_config: The content of hf_quant_config.json, used only if config.json has no such
            section, or one that names no algorithm.
    """
    found: list[Announcement] = []
    file_facts = _modelopt_facts(quant_config or {})
    for path, section in _sections(config, "", 0):
        for stated in _facts_of_groups(section):
            is_bare = stated.get("method") == file_facts.get("method") and "algo" not in stated
            facts = {**file_facts, **stated} if is_bare else stated
            whose = path if facts == stated else f"{path} with {QUANT_CONFIG}"
            if facts and all(facts != other.facts for other in found):
                found.append(Announcement(whose, facts))
    if not found and file_facts:
        found.append(Announcement(QUANT_CONFIG, file_facts))
    return tuple(found)


def _modelopt_facts(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the facts of a hf_quant_config.json; none if it says nothing."""
    producer, section = config.get("producer"), config.get("quantization")
    facts = _facts_of(section) if isinstance(section, Mapping) else {}
    name = producer.get("name") if isinstance(producer, Mapping) else None
    return {**facts, "method": name if isinstance(name, str) else "modelopt"} if facts else {}


def contradiction_notes(
    config: Mapping[str, Any], quant_config: Mapping[str, Any]
) -> Iterator[str]:
    """Yield a note if hf_quant_config.json means other number formats than config.json.

    Loaders read it only if config.json says nothing, so that it does not change what weights are.
    """
    said, facts = announcements(config, quant_config), _modelopt_facts(quant_config)
    if not said or not facts:
        return
    other = Announcement(QUANT_CONFIG, facts)
    rows: tuple[NumberFormat | NamedFormat, ...] = (
        *number_formats().values(),
        *named_formats().values(),
    )
    meant = [row for row in rows if other.allows(row)]
    is_another = bool(meant) and not any(each.allows(row) for each in said for row in meant)
    groups = {each.facts["group"] for each in said if "group" in each.facts}
    has_other_groups = bool(groups) and "group" in facts and facts["group"] not in groups
    if is_another or has_other_groups:
        yield (
            f"{other.text}, and in {CONFIG} {' and '.join(each.text for each in said)}: "
            f"{CONFIG} is believed, as loaders do"
        )


def stated_block(announced: Iterable[Announcement]) -> tuple[int, int] | None:
    """Return the rows and columns that share a scale; None if nothing says so.

    They are the usual ones if a statement means a format in blocks, and not their size.
    """
    means_blocks = False
    for each in announced:
        block = each.facts.get("block")
        if block is not None:
            return block[0], block[1]
        allowed = [row for row in number_formats().values() if each.allows(row)]
        means_blocks = means_blocks or (bool(allowed) and all(map(_is_in_blocks, allowed)))
    return (USUAL_BLOCK, USUAL_BLOCK) if means_blocks else None


def _is_in_blocks(row: NumberFormat) -> bool:
    scale = row.part("scale")
    return scale is not None and any(
        tuple(axis.per for axis in axes) == BLOCK_AXES for axes in scale.axes
    )


def transforms_of_inputs(config: Mapping[str, Any]) -> str:
    """Return the path of transforms that loaders apply to activations; empty if there are none.

    Without them, weights that compressed-tensors has transformed mean something else.
    """
    for path, section in _sections(config, "", 0):
        transforms = section.get("transform_config")
        groups = transforms.get("config_groups") if isinstance(transforms, Mapping) else None
        for group in groups.values() if isinstance(groups, Mapping) else ():
            applied = group.get("apply") if isinstance(group, Mapping) else None
            for each in applied if isinstance(applied, list) else ():
                location = each.get("location") if isinstance(each, Mapping) else None
                if isinstance(location, str) and not location.startswith("weight_"):
                    return f"{path}.transform_config"
    return ""


def sections(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the paths of all sections of config.json that describe number formats."""
    return tuple(path for path, _ in _sections(config, "", 0))


def _sections(
    config: Mapping[str, Any], path: str, depth: int
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            if key in SECTIONS:
                yield f"{path}{key}", value
            elif depth < _MAX_DEPTH:
                yield from _sections(value, f"{path}{key}.", depth + 1)


def _facts_of_groups(section: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the facts of each group of a section, including those shared by all groups."""
    common = _facts_of(section)
    if "method" not in common and {"bits", "group"} <= common.keys():
        common["method"] = "mlx"
    groups = section.get("config_groups")
    weights = [
        {**_facts_of(group), **_facts_of(weights)}
        for group in (groups.values() if isinstance(groups, Mapping) else ())
        if isinstance(group, Mapping) and isinstance(weights := group.get("weights"), Mapping)
    ]
    if common.get("method") == "modelopt":
        weights = []
    for facts in weights or ({},):
        merged = {**common, **facts}
        if facts.get("format") is None and common.get("format") is not None:
            merged["format"] = common["format"]
        if merged.get("strategy") == "tensor_group":
            merged["strategy"] = "group"
        yield {key: value for key, value in merged.items() if value is not None}


def _facts_of(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts that one object states, by the words of `quantization.toml`."""
    found: dict[str, Any] = {}
    for word, keys in _KEYS.items():
        value = next((section[key] for key in keys if section.get(key) is not None), None)
        if _is_block(value) if word == "block" else isinstance(value, str | int):
            found[word] = value
    return found


def _is_block(value: Any) -> bool:
    pair = isinstance(value, list) and len(value) == 2
    return pair and all(type(n) is int and n > 0 for n in value)
