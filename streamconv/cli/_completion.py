"""Values that the shell completes for options and arguments, apart from paths.

The scripts for bash, zsh and fish are click's: `_STREAMCONV_COMPLETE=bash_source streamconv`
prints the one for bash. An error here completes nothing, as it could not be shown.
"""

from collections.abc import Callable, Iterable

import click
from click.shell_completion import CompletionItem

from streamconv.errors import StreamconvError

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def complete_target(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return the forms and layouts that `--to` takes."""
    from streamconv.catalog.families import SAME

    return _beginning_with(incomplete, [*_forms_and_layouts(ctx), (SAME, "keeps all layouts")])


def complete_source(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return the forms and layouts that `--from` takes."""
    return _beginning_with(incomplete, _forms_and_layouts(ctx))


def complete_layout(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return the layouts, without forms."""
    from streamconv.catalog.catalog import default_catalog

    layouts = default_catalog().layouts.values()
    return _beginning_with(incomplete, [(layout.name, layout.used_by) for layout in layouts])


def complete_family(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return the model types of all families."""
    from streamconv.catalog.catalog import default_catalog

    families = default_catalog().families.values()
    return _beginning_with(incomplete, [(name, "") for f in families for name in f.model_types])


def complete_preset(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return the presets."""
    from streamconv.catalog.presets import presets

    return _beginning_with(incomplete, [(name, "") for name in presets()])


def _forms_and_layouts(ctx: click.Context) -> list[tuple[str, str]]:
    """Return the name of each form and layout, and its use; those of `--family`, too."""
    from streamconv.catalog.catalog import default_catalog, load_catalog
    from streamconv.catalog.families import FORMS

    try:
        catalog = load_catalog(ctx.params.get("family"))
    except StreamconvError:
        catalog = default_catalog()
    return [
        *((form, "a form of known families") for form in FORMS),
        *((layout.name, layout.used_by) for layout in catalog.layouts.values()),
    ]


def _beginning_with(incomplete: str, known: Iterable[tuple[str, str]]) -> list[CompletionItem]:
    """Return the names that begin with what has been typed, each with its help."""
    return [
        CompletionItem(name, help=about or None)
        for name, about in known
        if name.startswith(incomplete)
    ]
