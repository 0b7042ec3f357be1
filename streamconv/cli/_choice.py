"""Types of options: a number or one of a few words, with errors that say what is allowed."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from streamconv.errors import did_you_mean

ALIASES: Mapping[str, str] = {
    **dict.fromkeys(("bfloat16", "torch.bfloat16", "b16", "bfp16"), "bf16"),
    **dict.fromkeys(("float16", "torch.float16", "half", "f16"), "fp16"),
    **dict.fromkeys(("float32", "torch.float32", "float", "single", "f32"), "fp32"),
    "torch": "dcp",
    "distcp": "dcp",
    "hf": "safetensors",
}
"""Words that other tools have for the values of our options. An error suggests the value."""

if TYPE_CHECKING:
    _TextChoice = click.Choice[str]
else:  # older versions of click have no type parameter
    _TextChoice = click.Choice


class Word(_TextChoice):
    """One of a few words, in upper or lower case."""

    def __init__(self, *words: str) -> None:
        super().__init__(words, case_sensitive=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the word. Raises click's error, with a note that suggests a word."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            alias = ALIASES.get(str(value).casefold())
            meant = f"did you mean {alias}?" if alias in self.choices else ""
            meant = meant or did_you_mean(str(value), self.choices)
            if meant:
                error.add_note(meant)
            raise


class Number(click.IntRange):
    """A whole number from `min` to `max`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number. Raises click's error, which names the allowed range."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"{value!r} is not a number from {self.min} to {self.max}", param, ctx)
