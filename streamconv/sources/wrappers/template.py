"""A checkpoint as a training run left it, with the hub checkpoint that it came from beside it.

The template gives the config and all other files, and says which tensors there have to be. What
a run did not save, such as a talker that it did not train, is refused, or taken from there.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from streamconv.checkpoint.types import (
    Checkpoint,
    OtherFile,
    ReferenceCheckpoint,
    TensorInfo,
    summarize_names,
)
from streamconv.detection.detect import Detected, detect
from streamconv.errors import BadCheckpoint, quoted
from streamconv.sources.base import Read, Source


class TemplatedSource:
    """Two sources as one: tensors of the first, and from the second what that does not have."""

    def __init__(self, source: Source, template: Source, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._source = source
        self._template = template
        self._files = {file.name for file in template.checkpoint.files}

    def read(self, reads: Sequence[Read]) -> None:
        trained = [read for read in reads if read.info.file not in self._files]
        filled = [read for read in reads if read.info.file in self._files]
        for source, wanted in ((self._source, trained), (self._template, filled)):
            if wanted:
                source.read(wanted)

    def read_other(self, other: OtherFile, buffer: memoryview, start: int) -> int:
        return self._template.read_other(other, buffer, start)

    def check_unchanged(self) -> None:
        self._source.check_unchanged()
        self._template.check_unchanged()

    def close(self) -> None:
        self._source.close()
        self._template.close()


def with_template(
    source: Source,
    template: Source,
    *,
    fill: bool = False,
    declared_layout: str | None = None,
    casts: bool = False,
) -> Source:
    """`source` with config and other files of `template`, and the tensors that it lacks if `fill`.

    `declared_layout` is the layout or form of the source where it does not say so itself; where it
    `casts`, its dtypes need not be the template's. Raises BadCheckpoint where tensors are missing,
    or are others than the template's.
    """
    kept, original = source.checkpoint, template.checkpoint
    trained = _Holdings.of(detect(replace(kept, config=original.config), declared_layout))
    expected = _Holdings.of(detect(original))
    where = f"{kept.location}, whose template is {original.location}"
    for what, infos in expected.held.items():
        have, want = trained.facts.get(what), expected.facts[what]
        if have is not None and have[casts:] != want[casts:]:
            raise BadCheckpoint(
                f"{where}: {quoted(infos[0].name)} is {_shown(want)} in the template, "
                f"{_shown(have)} in the checkpoint",
                "is it the template of another model? dtypes may differ where --dtype casts them",
            )
    missing = {
        n: info for w in expected.held if w not in trained.held for n, info in expected.named(w)
    }
    unknown = tuple(
        info.name for w in trained.held if w not in expected.held for info in trained.held[w]
    )
    if missing and (not fill or unknown):
        besides = f"; the template does not know {summarize_names(unknown)}" if unknown else ""
        raise BadCheckpoint(
            f"{where}, lacks {len(missing):,} of its tensors: {summarize_names(missing)}{besides}",
            "is it a matter of --dcp-prefix or --preset?"
            if unknown
            else "take them from the template with --fill-from-template",
        )
    names = trained.found.names
    filled = {
        names.apply(hub): replace(info, name=names.apply(hub)) for hub, info in missing.items()
    }
    used = {info.file for info in filled.values()}
    nbytes = sum(info.nbytes for info in filled.values())
    checkpoint = replace(
        kept,
        tensors={**kept.tensors, **filled},
        files=(*kept.files, *(file for file in original.files if file.name in used)),
        others=(*_left(kept.others), *original.others),
        config=original.config,
        total_bytes=kept.total_bytes + nbytes,
        template=ReferenceCheckpoint(
            original.location, expected.found.names.name, frozenset(filled), nbytes, unknown
        ),
    )
    return TemplatedSource(source, template, checkpoint)


def _left(others: Iterable[OtherFile]) -> Iterable[OtherFile]:
    """The other files of the trained checkpoint, all of them left behind."""
    for other in others:
        yield replace(other, skip_reason=other.skip_reason or "the template has the other files")


Facts = tuple[str, Mapping[str, int] | tuple[int, ...]]
"""The dtypes of something, and its axes or its shape."""


@dataclass(frozen=True, slots=True)
class _Holdings:
    """What a checkpoint holds, in terms that do not depend on its layout.

    By hub name: a weight of the experts of a layer or of a group, or any other tensor.
    """

    found: Detected
    held: Mapping[str, Sequence[TensorInfo]]
    facts: Mapping[str, Facts]
    hub_names: Mapping[str, str]
    """Of each tensor."""

    @classmethod
    def of(cls, found: Detected) -> "_Holdings":
        held: dict[str, Sequence[TensorInfo]] = {}
        facts: dict[str, Facts] = {}
        stacked: set[str] = set()
        for stack in (*found.stacks, *found.groups):
            for module in stack.modules:
                for weight, infos in module.tensors.items():
                    what = f"{module.prefix}{stack.what}: {weight}"
                    held[what] = infos
                    facts[what] = (infos[0].dtype, stack.sizes)
                    stacked.update(info.name for info in infos)
        for hub, info in found.hub_names.items():
            if info.name not in stacked:
                held[hub] = (info,)
                facts[hub] = (info.dtype, info.shape)
        return cls(found, held, facts, {info.name: hub for hub, info in found.hub_names.items()})

    def named(self, what: str) -> Iterable[tuple[str, TensorInfo]]:
        """The tensors of something, by their hub names."""
        return ((self.hub_names[info.name], info) for info in self.held[what])


def _shown(facts: Facts) -> str:
    dtype, extent = facts
    if isinstance(extent, Mapping):
        return f"{dtype} of {', '.join(f'{axis} {n}' for axis, n in sorted(extent.items()))}"
    return f"{dtype} {list(extent)}"
