"""Names as keys of a torch.distributed.checkpoint, and what training frameworks want. Pure."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from streamconv.catalog.toml_tables import read_table
from streamconv.errors import UsageError


@dataclass(frozen=True, slots=True)
class Prefixes:
    """Names that begin with `hf` outside of a DCP begin with `dcp` in it; empty fits any."""

    hf: str = ""
    dcp: str = ""

    def apply(self, name: str) -> str:
        """The key of what is called `name`."""
        return self.dcp + name[len(self.hf) :] if name.startswith(self.hf) else name

    def undo(self, key: str) -> str:
        """The name of what has the key."""
        return self.hf + key[len(self.dcp) :] if key.startswith(self.dcp) else key

    def is_reversible(self, name: str) -> bool:
        """Whether a name comes back from its key as it was."""
        return self.undo(self.apply(name)) == name


@dataclass(frozen=True)
class Preset:
    """How a training framework keeps its checkpoints; see `data/presets.toml`."""

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
    """Every preset by its name."""
    return MappingProxyType(
        {name: Preset(name, **row) for name, row in read_table("presets.toml").items()}
    )


def find_preset(name: str) -> Preset:
    """The preset called `name`; raises UsageError that lists those there are."""
    try:
        return presets()[name]
    except KeyError:
        raise UsageError(
            f"there is no preset called {name!r}", f"the presets are {', '.join(presets())}"
        ) from None
