"""The command of a verb. Its help lists the options in groups, and examples."""

from collections.abc import Mapping
from typing import Any, Literal

import click

Group = Literal["layout", "output", "resources", "number formats", "verification", "DCP", "display"]
"""A group of options in the help of a verb, in the order in which groups are listed."""

TITLES: Mapping[Group, str] = {
    "layout": "Layout",
    "output": "Output",
    "resources": "Resources",
    "number formats": "Number formats",
    "verification": "Verification",
    "DCP": "DCP",
    "display": "Display",
}


class GroupedOption(click.Option):
    """An option that belongs to a group."""

    def __init__(self, *args: Any, group: Group, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.group = group


class Verb(click.Command):
    """A command whose help lists options by groups and ends with examples."""

    def __init__(self, *args: Any, examples: tuple[str, ...], **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.examples = examples

    def get_help_option_names(self, ctx: click.Context) -> list[str]:
        """Return both names of the help option, whatever the context says.

        click builds the help option for the first context that asks and keeps it. If that context
        lacked our settings, no later one would have `-h`.
        """
        return ["-h", "--help"]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does. An error names this verb even if an option lacks its value."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section for each group that has options."""
        groups: dict[Group, list[tuple[str, str]]] = {group: [] for group in TITLES}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                groups[getattr(parameter, "group", "display")].append(record)
        for group, records in groups.items():
            if records:
                with formatter.section(TITLES[group]):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples as they are typed, without line breaks of ours."""
        lines = [f"  {example}" for example in self.examples]
        heading = "Example:" if len(lines) == 1 else "Examples:"
        formatter.write_paragraph()
        formatter.write_text("\n".join(["\b", heading, *lines]))
