"""The number formats of expert stacks, and the layouts in which such experts would load.

A form is what its ecosystem loads, to the same values on every host. In most formats, transformers
loads quantized experts only if each expert has its own tensors: it does not find the scales of
merged experts, and continues with wrong values. The rows of `quantization.toml` say which
layouts of a format it loads.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from streamconv.catalog.encodings import encoding_row
from streamconv.catalog.families import HUB_NAMES
from streamconv.catalog.layouts import PER_EXPERT, NamedLayout
from streamconv.catalog.templates import EXPERTS
from streamconv.checkpoint.casting import Casting
from streamconv.checkpoint.types import Checkpoint
from streamconv.detection.detect import Detected
from streamconv.detection.refusals import divided_experts
from streamconv.detection.stacks import Stack
from streamconv.errors import PlanRefused, StreamconvError, quoted
from streamconv.quantization.number_format import UNDESCRIBED, NamedFormat, NumberFormat
from streamconv.quantization.recognize import recognize


@dataclass(frozen=True, slots=True)
class StoredExperts:
    """The number formats of a stack of quantized experts."""

    formats: tuple[str, ...]
    """Names of their number formats."""
    loads: frozenset[str]
    """Names of the layouts in which transformers loads experts of all these formats."""
    is_decoded: bool = True
    """False if one of the formats is known by name only."""
    is_made: bool = False
    """True if `--quantize` makes these experts, False if they are stored quantized."""
    has_single: bool = True
    """False if transformers has only merged experts of this model type in these formats."""

    @property
    def text(self) -> str:
        """The formats, for a message."""
        return " and ".join(self.formats) or UNDESCRIBED

    @property
    def loading(self) -> str:
        """How transformers loads them, as a clause."""
        if PER_EXPERT in self.loads and not self.has_single:
            return (
                "transformers loads such experts of this model type merged only, and finds no "
                "scales of merged ones"
            )
        if PER_EXPERT in self.loads:
            return (
                "transformers loads such experts one by one only, and finds no scales of merged "
                "ones"
            )
        if self.loads:
            return f"transformers loads such experts as {', '.join(sorted(self.loads))} only"
        return "no layout is known in which transformers would load such experts merged"


def stored_experts(checkpoint: Checkpoint, source: Detected) -> Mapping[str, StoredExperts]:
    """Return how the experts of each stack are stored, by its pattern, if they are quantized.

    Args:
        checkpoint: The checkpoint with all casts applied.
        source: What was detected in it.
    """
    found = recognize(checkpoint, strict=False)
    if not found.weights and not found.unknown:
        return {}
    made: set[str] = set()
    methods: dict[str, set[str]] = {}
    formats: dict[str, dict[str, NumberFormat | NamedFormat | None]] = {}
    for stack in source.stacks:
        for info in _tensors(stack):
            weight = found.weights.get(info)
            if weight is not None:
                formats.setdefault(stack.pattern, {})[weight.format.name] = weight.format
                encoding = weight.codes.cast.encoding if weight.codes.cast else None
                if encoding is not None:
                    made.add(stack.pattern)
                    said = [encoding_row(encoding.name, encoding.scales).config["quant_method"]]
                else:
                    said = [each.method for each in found.announced if each.allows(weight.format)]
                methods.setdefault(stack.pattern, set()).update(said)
            elif info in found.unknown:
                formats.setdefault(stack.pattern, {})[UNDESCRIBED] = None
    return {
        pattern: _stored(
            rows, pattern in made, _has_single(source, pattern, methods.get(pattern, ()))
        )
        for pattern, rows in formats.items()
    }


def _has_single(source: Detected, pattern: str, methods: Collection[str]) -> bool:
    """Return True if transformers has experts one by one, or the model type is in no family.

    Args:
        source: What was detected.
        pattern: The stack.
        methods: Each `quant_method` that config.json has for its experts.
    """
    family = source.family
    if family is None or pattern in source.foreign:
        return True
    hub = family.layouts_for(pattern, family.forms[HUB_NAMES.name])
    if not hub or any(row.layout.name == PER_EXPERT for row in hub):
        return True
    return bool(methods) and all(each in family.single_experts for each in methods)


def _tensors(stack: Stack) -> Iterable[str]:
    return (i.name for m in stack.modules for infos in m.tensors.values() for i in infos)


def _stored(
    rows: Mapping[str, NumberFormat | NamedFormat | None], is_made: bool, has_single: bool
) -> StoredExperts:
    loads = [row.loads if row else frozenset[str]() for row in rows.values()]
    is_decoded = all(isinstance(row, NumberFormat) for row in rows.values())
    return StoredExperts(
        tuple(rows), frozenset.intersection(*loads), is_decoded, is_made, has_single
    )


def refuse_to_merge(
    model_type: str, pattern: str, stored: StoredExperts, asked: str
) -> PlanRefused:
    """Return the refusal of a form for experts that would not load in it."""
    if stored.is_made:
        return PlanRefused(
            f"cannot merge model type {quoted(model_type or 'unknown')} to {asked}: "
            f"{quoted(pattern)}experts become {stored.text}, and {stored.loading}",
            "add --to per-expert, or name a layout, such as --to fused, to merge them nevertheless",
        )
    layout = "a layout, such as --to fused, to merge them as they are"
    return PlanRefused(
        f"cannot merge model type {quoted(model_type or 'unknown')} to {asked}: "
        f"{quoted(pattern)}experts are stored as {stored.text}, and {stored.loading}",
        f"add --dequantize bf16 to merge their values, or name {layout}"
        if stored.is_decoded
        else f"name {layout}",
    )


def keep_refused(source: Detected, pattern: str, encoding: str) -> PlanRefused:
    """Return the refusal to keep the layout of experts that are quantized one by one."""
    layout = next(stack.row.layout.name for stack in source.stacks if stack.pattern == pattern)
    method = encoding_row(encoding).config["quant_method"]
    loads = ", which transformers loads" if _has_single(source, pattern, [method]) else ""
    return PlanRefused(
        f"cannot keep {quoted(pattern)}experts {layout}: they are quantized to {encoding} one by "
        "one",
        f"name the layout of the result: --to per-expert{loads}",
    )


def warning(pattern: str, stored: StoredExperts, row: NamedLayout) -> str:
    """Return the warning for experts that are converted to a layout in which they do not load."""
    change = (
        f"are stored as {stored.text} and become"
        if not stored.is_made
        else (f"become {stored.text} and")
    )
    return (
        f"{quoted(pattern)}experts {change} {row.layout.name}: {stored.loading}, so it would not "
        "load the result correctly"
    )


def detect_or_refuse(
    checkpoint: Checkpoint,
    casting: Casting,
    detect: Callable[[Checkpoint], Detected],
    dequantize: Callable[[], Checkpoint | None],
) -> Detected:
    """Detect a checkpoint. If quantized experts prevent this, raise an error that says so.

    Args:
        checkpoint: The checkpoint with all casts applied.
        casting: The casts.
        detect: Detects it.
        dequantize: Returns the checkpoint as if it were dequantized; None if that is impossible.

    Raises:
        PlanRefused: Its experts are stored in a number format that no layout describes, or only
            some weights of a layer's experts are dequantized.
        StreamconvError: It cannot be detected, whatever its experts are stored as.
    """
    try:
        return detect(checkpoint)
    except StreamconvError as error:
        if casting.dequantize is not None:
            if _is_detected(dequantize(), detect):
                raise divided_experts(checkpoint.location, casting) from None
            raise
        found = recognize(checkpoint, strict=False)
        weights = list(found.weights.values())
        # MLX has no `.experts.` in the names of its experts; then all weights count
        experts = [w for w in weights if EXPERTS in w.codes.name] or weights
        is_named = any(isinstance(weight.format, NamedFormat) for weight in experts)
        if not experts or not (is_named or _is_detected(dequantize(), detect)):
            raise
        names = dict.fromkeys(w.format.says if is_named else w.format.name for w in experts)
        stored = StoredExperts(tuple(names), experts[0].format.loads)
        ways = "--pass-through to copy them as they are"
        raise PlanRefused(
            f"cannot convert the experts of {checkpoint.location}: they are stored as "
            f"{stored.text}, in which no layout describes them, and {stored.loading}; "
            f"{error.message}",
            f"add {ways}"
            if is_named
            else f"add --dequantize bf16 to convert their values, or {ways}",
        ) from None


def _is_detected(checkpoint: Checkpoint | None, detect: Callable[[Checkpoint], Detected]) -> bool:
    if checkpoint is None:
        return False
    try:
        detect(checkpoint)
    except StreamconvError:
        return False
    return True
