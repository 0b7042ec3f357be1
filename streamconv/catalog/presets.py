"""The conventions of training frameworks for a torch.distributed.checkpoint (DCP)."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from streamconv.catalog.toml_tables import read_table
from streamconv.errors import UsageError, did_you_mean, quoted


@dataclass(frozen=True, slots=True)
class Prefixes:
    """Prefixes of tensor names: those that begin with `hf` elsewhere begin with `dcp` in a DCP.

    For example, with `hf` empty and `dcp` "model.", `lm_head.weight` is `model.lm_head.weight` in
    the DCP. Names that do not begin with `hf` are the same in both.
    """

    hf: str = ""
    dcp: str = ""

    def apply(self, name: str) -> str:
        """Return the key in a DCP of the tensor called `name`."""
        return self.dcp + name[len(self.hf) :] if name.startswith(self.hf) else name

    def undo(self, key: str) -> str:
        """Return the name of the tensor that has `key` in a DCP."""
        return self.hf + key[len(self.dcp) :] if key.startswith(self.dcp) else key

    def is_reversible(self, name: str) -> bool:
        """Return True if the key of `name` leads back to `name`."""
        return self.undo(self.apply(name)) == name


@dataclass(frozen=True)
class Preset:
    """The conventions of a training framework; `data/presets.toml` explains the fields."""

    name: str
    folder: str
    tracker: Mapping[str, str]
    wrapper: str
    extras: Mapping[str, Any]
    dcp_prefix: str
    folder_mode: int
    file_mode: int


@functools.cache
def presets() -> Mapping[str, Preset]:
    """Return every preset by its name."""
    return MappingProxyType(
        {name: Preset(name, **row) for name, row in read_table("presets.toml").items()}
    )


def find_preset(name: str) -> Preset:
    """Return the preset called `name`. Raises UsageError that lists the presets."""
    try:
        return presets()[name]
    except KeyError:
        raise UsageError(
            f"there is no preset called {quoted(repr(name))}",
            did_you_mean(name, presets()) or f"choose from {', '.join(presets())}",
        ) from None
