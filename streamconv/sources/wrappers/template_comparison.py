"""What a trained checkpoint and its template have in common, and how they differ.

Both are compared by hub names, so that their layouts may differ.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from streamconv.catalog.catalog import Catalog
from streamconv.checkpoint.tensor_names import summarize_names
from streamconv.checkpoint.tied_weights import heads_of_trained_embeddings
from streamconv.checkpoint.types import Checkpoint, TensorInfo
from streamconv.detection.detect import Detected, detect
from streamconv.errors import BadCheckpoint, quoted


@dataclass(frozen=True, slots=True)
class Item:
    """A unit of comparison, which does not depend on the layouts of the two checkpoints.

    It is a weight of all experts of a layer, a weight of another group of tensors, or a tensor.
    """

    tensors: Sequence[TensorInfo]
    dtype: str
    extent: Mapping[str, int] | tuple[int, ...]
    """The sizes by axis of a weight of a group, the shape of a single tensor."""

    def __str__(self) -> str:
        if isinstance(self.extent, Mapping):
            sizes = ", ".join(f"{axis} {size}" for axis, size in sorted(self.extent.items()))
            return f"{self.dtype} of {sizes}"
        return f"{self.dtype} {list(self.extent)}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """A trained checkpoint and its template, item by item."""

    trained: Checkpoint
    template: Checkpoint
    """The template; its quantized weights are dequantized if the trained ones are not quantized."""
    detected: Detected
    """The trained checkpoint, detected."""
    template_names: str
    """The form whose names the tensors of the template have."""
    template_namings: Mapping[str, str]
    """The naming of each stack of the template, by its pattern, if that is certain."""
    pairs: Sequence[tuple[Item, Item]]
    """The items that both have: the trained one, and the template's."""
    missing: Mapping[str, TensorInfo]
    """The template's tensors that the trained checkpoint lacks, by hub name."""
    unknown: tuple[str, ...]
    """The names of the trained tensors that the template lacks."""
    tied: tuple[str, ...] = ()
    """Hub names of heads that only the template has, tied to embeddings that were trained."""
    maybe_tied: tuple[str, ...] = ()
    """Hub names of such heads that config.json does not declare untied."""

    @property
    def is_dequantized(self) -> bool:
        """True if the template is seen dequantized."""
        return any(info.cast is not None for info in self.template.tensors.values())


def compare_with_template(
    trained: Checkpoint, template: Checkpoint, catalog: Catalog, declared_layout: str | None
) -> Comparison:
    """Match what a trained checkpoint and its template hold, by hub names.

    Raises what `detect` raises for either.
    """
    detected = detect(replace(trained, config=template.config), catalog, declared_layout)
    expected = detect(template, catalog)
    items, expected_items = dict(_items(detected)), dict(_items(expected))
    hub_names = {info.name: hub for hub, info in expected.hub_names.items()}
    missing = {
        hub_names[info.name]: info
        for key, item in expected_items.items()
        if key not in items
        for info in item.tensors
    }
    heads = dict(heads_of_trained_embeddings(template.config, missing, items.keys()))
    return Comparison(
        trained=trained,
        template=template,
        detected=detected,
        template_names=expected.names.name,
        template_namings={
            stack.pattern: stack.row.naming.name
            for stack in expected.stacks
            if stack.row.names_projections() or template.record is not None
        },
        pairs=[(items[key], item) for key, item in expected_items.items() if key in items],
        missing={name: info for name, info in missing.items() if not heads.get(name)},
        unknown=tuple(
            info.name
            for key, item in items.items()
            if key not in expected_items
            for info in item.tensors
        ),
        tied=tuple(name for name, is_tied in heads.items() if is_tied),
        maybe_tied=tuple(name for name, is_tied in heads.items() if is_tied is None),
    )


def _items(detected: Detected) -> Iterator[tuple[str, Item]]:
    """List the items of a checkpoint, each with a key that does not depend on the layout."""
    grouped: set[str] = set()
    for stack in (*detected.stacks, *detected.groups):
        for module in stack.modules:
            for weight, infos in module.tensors.items():
                grouped.update(info.name for info in infos)
                key = f"{module.prefix}{stack.contents}: {weight}"
                yield key, Item(infos, infos[0].dtype, stack.sizes)
    for hub_name, info in detected.hub_names.items():
        if info.name not in grouped:
            yield hub_name, Item((info,), info.dtype, info.shape)


def check_comparison(comparison: Comparison, *, fill: bool, casts: bool) -> None:
    """Refuse items that differ, and missing tensors that may not be filled.

    Missing tensors are never filled if there are unknown ones: with a wrong prefix every trained
    tensor is unknown, and filling would return the untrained model.
    """
    trained, template = comparison.trained.location, comparison.template.location
    for have, want in comparison.pairs:
        if have.extent != want.extent or (have.dtype != want.dtype and not casts):
            raise BadCheckpoint(
                f"cannot use {template} as the template of {trained}: "
                f"{quoted(want.tensors[0].name)} is {want} in the template and {have} in the "
                "checkpoint",
                "name the hub checkpoint that training began with; "
                "if only the dtype differs, add --dtype",
            )
    missing, unknown = comparison.missing, comparison.unknown
    if missing and unknown:
        raise BadCheckpoint(
            f"cannot use {template} as the template of {trained}: the checkpoint lacks "
            f"{len(missing):,} of its tensors: {summarize_names(missing)}; "
            f"the template does not know {summarize_names(unknown)}",
            "check --dcp-prefix and --preset, which say what the keys of the DCP begin with",
        )
    if missing and not fill:
        raise BadCheckpoint(
            f"cannot use {template} as the template of {trained}: the checkpoint lacks "
            f"{len(missing):,} of its tensors: {summarize_names(missing)}",
            "add --fill-from-template to take them from the template",
        )
