"""A source opened as the user's options say: with prefixes, renames and a template."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

from streamconv.catalog.catalog import Catalog
from streamconv.checkpoint.user_renames import parse_rename
from streamconv.errors import UsageError
from streamconv.options import Location, Reading, opening_of
from streamconv.sources.base import Source
from streamconv.sources.open import open_source
from streamconv.sources.wrappers.rename import with_renames
from streamconv.system.cancellation import CancelToken


@contextmanager
def open_with_template(
    src: Location,
    catalog: Catalog,
    reading: Reading,
    *,
    casts: bool = False,
    lenient: bool = False,
    cancel: CancelToken | None = None,
) -> Iterator[Source]:
    """Open the checkpoint at `src`, completed by its template if the options name one.

    Args:
        src: The location of the checkpoint.
        catalog: The layouts and families that the checkpoints can have.
        reading: The options for its prefixes, renames, layout and template.
        casts: Allow dtypes that differ from those of the template.
        lenient: List contradictions between files instead of raising them.
        cancel: Ends the waits of all reads.

    Yields:
        The source, which is closed at the end of the context.

    Raises:
        UsageError: `fill_from_template` is set without a template.
        StreamconvError: Either checkpoint cannot be opened, or they do not fit together.
    """
    location = reading.get("template")
    fill = reading.get("fill_from_template", False)
    if fill and location is None:
        raise UsageError(
            "cannot fill from a template: there is no template",
            "add --template with the hub checkpoint that training began with",
        )
    with closing(open_source(str(src), opening_of(reading, lenient=lenient), cancel)) as opened:
        source = with_renames(opened, [parse_rename(text) for text in reading.get("rename") or ()])
        if location is None:
            yield source
            return
        from streamconv.sources.wrappers.template import with_template

        with closing(open_source(str(location), cancel=cancel)) as template:
            declared_layout = reading.get("source_layout")
            yield with_template(
                source,
                template,
                catalog,
                fill=fill,
                declared_layout=declared_layout,
                casts=casts,
            )
