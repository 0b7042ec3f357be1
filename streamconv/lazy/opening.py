"""Open a source as a lazy checkpoint."""

from contextlib import ExitStack

from streamconv.catalog.catalog import load_catalog
from streamconv.lazy.arrays import arrays_of
from streamconv.lazy.checkpoint import LazyCheckpoint
from streamconv.lazy.reading import SliceReader
from streamconv.options import LazyOptions, Location, check_prefixes
from streamconv.planning.build import build_outputs
from streamconv.sources.base import Source, read_whole
from streamconv.sources.wrappers.cast import CastSource
from streamconv.sources.wrappers.open_with_template import open_with_template
from streamconv.sources.wrappers.quantize import QuantizedSource
from streamconv.system.extras import require_extra


def open_checkpoint(
    src: Location, to: str | None, framework: str, options: LazyOptions
) -> LazyCheckpoint:
    """Open a checkpoint in a layout; see `streamconv.open`."""
    arrays = arrays_of(framework)
    if framework == "pt":
        require_extra("open a checkpoint as tensors of torch", "torch", ("torch",))
    catalog = load_catalog(options.get("family"))

    def opened() -> _Opened:
        with ExitStack() as stack:
            source = stack.enter_context(
                open_with_template(src, catalog, options, casts=bool(options.get("dtype")))
            )
            return _Opened(source, stack.pop_all())

    source = opened()
    try:
        check_prefixes(options, source.checkpoint.format)
        outputs = build_outputs(source.checkpoint, catalog, to, options, read=read_whole(source))
    except BaseException:
        source.close()
        raise
    reader = SliceReader(opened, source, arrays)
    return LazyCheckpoint(source.checkpoint, outputs, reader, arrays, is_torch=framework == "pt")


class _Opened(QuantizedSource):
    """A source with its casts. It stays open until `close`, with all that was opened for it."""

    def __init__(self, source: Source, stack: ExitStack) -> None:
        super().__init__(CastSource(source))
        self._stack = stack

    def close(self) -> None:
        self._stack.close()
