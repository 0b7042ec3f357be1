"""A checkpoint that a training run left, completed by the hub checkpoint that it came from.

The template gives the config and all files without tensors, and says which tensors there have to
be. Tensors that the run did not save, such as those of a talker that was not trained, are taken
from the template if the user asks for that, and refused otherwise. A run that began with quantized
weights may have trained them as floating-point numbers; the template is then seen dequantized.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from streamconv.catalog.catalog import Catalog
from streamconv.checkpoint.casting import Casting
from streamconv.checkpoint.stored_dtypes import is_quantized, main_dtype
from streamconv.checkpoint.tensor_names import summarize_names
from streamconv.checkpoint.tied_weights import heads_of_trained_embeddings
from streamconv.checkpoint.types import Checkpoint, OtherFile, ReferenceCheckpoint, TensorInfo
from streamconv.detection.detect import Detected, detect
from streamconv.errors import BadCheckpoint, quoted
from streamconv.quantization.announcement import announcements
from streamconv.quantization.cast_checkpoint import cast_checkpoint
from streamconv.sources.base import Read, Source, read_whole
from streamconv.sources.wrappers.base import SourceWrapper


class TemplatedSource(SourceWrapper):
    """A source with the files of its template, and those of its tensors that `checkpoint` has."""

    def __init__(self, source: Source, template: Source, checkpoint: Checkpoint) -> None:
        super().__init__(source)
        self._template = template
        self._checkpoint = checkpoint
        self._template_files = {file.name for file in template.checkpoint.files}

    @property
    def checkpoint(self) -> Checkpoint:
        return self._checkpoint

    def read(self, reads: Sequence[Read]) -> None:
        trained = [read for read in reads if read.info.file not in self._template_files]
        filled = [read for read in reads if read.info.file in self._template_files]
        if trained:
            super().read(trained)
        if filled:
            self._template.read(filled)

    def read_other(self, other: OtherFile, buffer: memoryview, start: int) -> int:
        return self._template.read_other(other, buffer, start)

    def mapped(self, info: TensorInfo, begin: int, end: int) -> memoryview | None:
        return None

    def check_file(self, name: str) -> None:
        self.check_unchanged()

    def check_unchanged(self) -> None:
        super().check_unchanged()
        self._template.check_unchanged()

    def close(self) -> None:
        with closing(self._template):
            super().close()


def with_template(
    source: Source,
    template: Source,
    catalog: Catalog,
    *,
    fill: bool = False,
    declared_layout: str | None = None,
    casts: bool = False,
) -> Source:
    """Complete a source by its template.

    Args:
        source: What a training run left.
        template: The hub checkpoint that training began with.
        catalog: The layouts and families that both can have.
        fill: Take tensors that the source lacks from the template.
        declared_layout: The layout or form of the source, if it does not record one.
        casts: Allow dtypes that differ from those of the template.

    Raises:
        BadCheckpoint: A tensor is missing and not filled, or is not as in the template.
        PlanRefused: The layout of either checkpoint cannot be detected.
        UsageError: There is no such `declared_layout`.
    """
    reference = _as_trained(template, source.checkpoint, catalog)
    comparison = _compare(source.checkpoint, reference, catalog, declared_layout)
    _check(comparison, fill=fill, casts=casts)
    return TemplatedSource(source, template, _fill(comparison))


@dataclass(frozen=True, slots=True)
class _Item:
    """What two checkpoints of one model share, whatever their layouts.

    A weight of the experts of a layer, a weight of another group of tensors, or a single tensor.
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
class _Comparison:
    """A trained checkpoint and its template, item by item."""

    trained: Checkpoint
    template: Checkpoint
    """The template; its quantized weights are dequantized if those that were trained are none."""
    detected: Detected
    """The trained checkpoint, detected."""
    template_names: str
    """The form whose names the tensors of the template have."""
    template_namings: Mapping[str, str]
    """The naming of each stack of the template, by its pattern, if that is certain."""
    pairs: Sequence[tuple[_Item, _Item]]
    """The items of both: the trained one, and the template's."""
    missing: Mapping[str, TensorInfo]
    """The template's tensors that the trained checkpoint lacks, by hub name."""
    unknown: tuple[str, ...]
    """The names of the trained tensors that the template lacks."""
    tied: tuple[str, ...] = ()
    """Hub names of heads that only the template has, tied to embeddings that were trained."""
    maybe_tied: tuple[str, ...] = ()
    """Hub names of such heads of which config.json does not say that they are not tied."""

    @property
    def is_dequantized(self) -> bool:
        """True if the template is seen dequantized."""
        return any(info.cast is not None for info in self.template.tensors.values())


def _as_trained(source: Source, trained: Checkpoint, catalog: Catalog) -> Checkpoint:
    """Return a template as if its weights had not been quantized, if training had such weights.

    Raises PlanRefused or BadCheckpoint if they cannot be dequantized.
    """
    template = source.checkpoint
    dtype = main_dtype(trained.tensors.values())
    stored = (template.tensors.values(), trained.tensors.values())
    is_quantized_here, was_trained_so = (any(map(is_quantized, infos)) for infos in stored)
    if dtype is None or was_trained_so or not is_quantized_here:
        return template
    if not announcements(template.config, template.quant_config):
        return template
    family = catalog.find_family(template.config.get("model_type"))
    return cast_checkpoint(template, Casting(dequantize=dtype), family, read_whole(source))


def _compare(
    trained: Checkpoint, template: Checkpoint, catalog: Catalog, declared_layout: str | None
) -> _Comparison:
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
    return _Comparison(
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


def _items(detected: Detected) -> Iterator[tuple[str, _Item]]:
    """List the items of a checkpoint, each with a key that does not depend on the layout."""
    grouped: set[str] = set()
    for stack in (*detected.stacks, *detected.groups):
        for module in stack.modules:
            for weight, infos in module.tensors.items():
                grouped.update(info.name for info in infos)
                key = f"{module.prefix}{stack.contents}: {weight}"
                yield key, _Item(infos, infos[0].dtype, stack.sizes)
    for hub_name, info in detected.hub_names.items():
        if info.name not in grouped:
            yield hub_name, _Item((info,), info.dtype, info.shape)


def _check(comparison: _Comparison, *, fill: bool, casts: bool) -> None:
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


def _fill(comparison: _Comparison) -> Checkpoint:
    """Return the trained checkpoint with all that it lacks of the template."""
    trained, template = comparison.trained, comparison.template
    names = comparison.detected.names
    filled = {
        names.apply(hub): replace(info, name=names.apply(hub))
        for hub, info in comparison.missing.items()
    }
    files = {stored.file for info in filled.values() for stored in info.stored}
    nbytes = sum(info.nbytes for info in filled.values())
    return replace(
        trained,
        tensors={**trained.tensors, **filled},
        files=(*trained.files, *(file for file in template.files if file.name in files)),
        others=(*_skipped(trained.others), *template.others),
        config=template.config,
        config_text=template.config_text,
        total_bytes=trained.total_bytes + nbytes,
        template=ReferenceCheckpoint(
            template.location,
            comparison.template_names,
            frozenset(filled),
            nbytes,
            comparison.unknown,
            comparison.template_namings,
            is_dequantized=comparison.is_dequantized,
            tied=comparison.tied,
            maybe_tied=comparison.maybe_tied,
        ),
    )


def _skipped(others: Iterable[OtherFile]) -> Iterator[OtherFile]:
    """Mark the other files of the trained checkpoint, none of which is copied."""
    for other in others:
        yield replace(other, skip_reason=other.skip_reason or "the template has the other files")
