"""The routers that have arrived, and the numbers of experts by them and config.json."""

from collections.abc import Mapping
from typing import Any

from streamconv.catalog.families import Family
from streamconv.catalog.routers import router_weights
from streamconv.checkpoint.tensor_names import pattern_of
from streamconv.checkpoint.types import TensorInfo
from streamconv.detection.expert_counts import ExpertCounts

MAX_EXPERTS = 2**16
"""More experts than any layer has. A larger number in config.json is ignored."""


class Routers:
    """Finds routers among the tensors that have arrived."""

    def __init__(
        self, config: Mapping[str, Any], family: Family | None, arrived: Mapping[str, TensorInfo]
    ) -> None:
        """Look for routers from now on.

        Args:
            config: Content of config.json.
            family: The family of the model.
            arrived: The tensors in no module that have arrived, by hub name. The caller adds more.
        """
        self._config = config
        self._family = family
        self._arrived = arrived

    def expert_counts(self, prefix: str) -> tuple[int, ...]:
        """Return the numbers of experts that a layer may have, the likeliest first.

        Args:
            prefix: The prefix of the module of its experts.
        """
        routers = {name: self._arrived[name] for name in self._names(prefix)}
        counts = ExpertCounts(self._config, self._family, routers)
        expected = counts.expected(prefix, pattern_of(prefix))
        return tuple(count for count in expected if 0 < count <= MAX_EXPERTS)

    def of_layers(self, *prefixes: str) -> tuple[TensorInfo, ...]:
        """Return the routers of some layers, each given by the prefix of its experts."""
        names = dict.fromkeys(name for prefix in prefixes for name in self._names(prefix))
        return tuple(self._arrived[name] for name in names)

    def _names(self, prefix: str) -> list[str]:
        return [prefix + name for name in router_weights() if prefix + name in self._arrived]
