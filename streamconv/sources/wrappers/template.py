"""A checkpoint that a training run saved, completed by the hub checkpoint that it began with.

The template gives the config and all files without tensors, and says which tensors there have to
be. Tensors that the run did not save, such as those of a talker that was not trained, are taken
from the template if the user asks for that, and refused otherwise. A run that began with quantized
weights may have trained them as floating-point numbers; the template is then seen dequantized.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace

from streamconv.catalog.catalog import Catalog
from streamconv.checkpoint.casting import Casting
from streamconv.checkpoint.stored_dtypes import is_quantized, main_dtype
from streamconv.checkpoint.types import Checkpoint, OtherFile, ReferenceCheckpoint
from streamconv.quantization.announcement import announcements
from streamconv.quantization.cast_checkpoint import cast_checkpoint
from streamconv.sources.base import ByteRange, Read, Source, expect, read_whole
from streamconv.sources.wrappers.base import SourceWrapper
from streamconv.sources.wrappers.template_comparison import (
    Comparison,
    check_comparison,
    compare_with_template,
)


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

    def expect(self, ranges: Sequence[ByteRange]) -> None:
        super().expect([r for r in ranges if r.info.file not in self._template_files])
        expect(self._template, [r for r in ranges if r.info.file in self._template_files])

    def read_other(self, other: OtherFile, buffer: memoryview, start: int) -> int:
        return self._template.read_other(other, buffer, start)

    def mapped(self, ranges: Sequence[ByteRange]) -> memoryview | None:
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
        source: The checkpoint that a training run saved.
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
    comparison = compare_with_template(source.checkpoint, reference, catalog, declared_layout)
    check_comparison(comparison, fill=fill, casts=casts)
    return TemplatedSource(source, template, _fill(comparison))


def _as_trained(source: Source, trained: Checkpoint, catalog: Catalog) -> Checkpoint:
    """Return the template, dequantized if the trained weights are not quantized.

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


def _fill(comparison: Comparison) -> Checkpoint:
    """Return the trained checkpoint, completed by whatever it lacks from the template."""
    trained, template = comparison.trained, comparison.template
    names = comparison.detected.names
    filled = {
        names.apply(hub): info._replace(name=names.apply(hub))
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
            local_paths=template.local_paths,
        ),
    )


def _skipped(others: Iterable[OtherFile]) -> Iterator[OtherFile]:
    """Mark the other files of the trained checkpoint, none of which is copied."""
    for other in others:
        yield replace(other, skip_reason=other.skip_reason or "the template has the other files")
