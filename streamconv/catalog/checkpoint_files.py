"""The files that the folder of a checkpoint may hold: rows of `data/checkpoint_files.toml`."""

import functools
import re
from collections.abc import Collection, Iterable

from streamconv.catalog.presets import presets
from streamconv.catalog.toml_tables import read_table
from streamconv.formats.dcp_metadata import METADATA_FILE

CONFIG = "config.json"
QUANT_CONFIG = "hf_quant_config.json"
"""The file in which ModelOpt describes the number format, which config.json may leave out."""
CODE_SUFFIX = ".py"


class PathPatterns:
    """Patterns of paths, in which `*` matches any characters but a slash."""

    def __init__(self, patterns: Iterable[str]) -> None:
        kept = list(patterns)
        above = {"/".join(p.split("/")[:n]) for p in kept for n in range(1, p.count("/") + 1)}
        self._files = _compiled(kept)
        self._folders = _compiled(above)

    def names_file(self, name: str) -> bool:
        """Return True if a pattern matches the path of a file."""
        return self._files.fullmatch(name) is not None

    def names_folder(self, name: str) -> bool:
        """Return True if a pattern matches paths inside of the folder."""
        return self._folders.fullmatch(name) is not None


def _compiled(patterns: Iterable[str]) -> re.Pattern[str]:
    """Return an expression for all of the patterns; it matches nothing if there are none."""
    parts = [re.escape(pattern).replace(r"\*", "[^/]*") for pattern in patterns]
    return re.compile("|".join(parts) or r"(?!)", re.DOTALL)


@functools.cache
def checkpoint_files() -> PathPatterns:
    """Return the patterns of every file that a checkpoint may have, except its code."""
    table = read_table("checkpoint_files.toml")
    saves = [f"{preset.folder}/{p}" for preset in presets().values() for p in table["dcp"]]
    trackers = [preset.tracker["name"] for preset in presets().values()]
    return PathPatterns([*table["weights"], *table["dcp"], *table["files"], *saves, *trackers])


def holds_checkpoint(names: Collection[str]) -> bool:
    """Return True if the files of a folder, as paths below it, make it a checkpoint.

    It has a config and weights, or the files of a DCP, at its top or in the folder of a preset.
    """
    weights = _weights()
    if CONFIG in names and any(weights.names_file(name) for name in names):
        return True
    folders = ("", *(f"{preset.folder}/" for preset in presets().values()))
    return any(
        f"{folder}{METADATA_FILE}" in names
        and any(name.startswith(folder) and name.endswith(".distcp") for name in names)
        for folder in folders
    )


@functools.cache
def _weights() -> PathPatterns:
    return PathPatterns(read_table("checkpoint_files.toml")["weights"])


def output_files() -> PathPatterns:
    """Return the patterns of the files that any conversion may write, except copied ones."""
    own = [
        *("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json"),
        "streamconv.json",
    ]
    dcp = [METADATA_FILE, "__*_*.distcp"]
    for preset in presets().values():
        own += [f"{preset.folder}/{pattern}" for pattern in dcp]
        own.append(preset.tracker["name"])
    return PathPatterns([*own, *dcp])
