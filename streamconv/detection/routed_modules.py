"""Find what modules have next to their experts: routers, and projections of hidden vectors."""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from streamconv.catalog.routers import projections, router_weights
from streamconv.checkpoint.tensor_names import pattern_of


@dataclass(frozen=True, slots=True)
class RoutedModules:
    """What modules have next to their experts, found in one pass over all names."""

    routed: Mapping[str, list[str]]
    """The prefix of every module that has a router, by its pattern."""
    projected: list[str]
    """The names of all tensors of projections, and of few others, sorted."""

    @classmethod
    def of(cls, hub_names: Iterable[str]) -> "RoutedModules":
        """Find them among all hub names."""
        endings = router_weights()
        words = tuple(f"{word}." for word in projections())
        routed: dict[str, list[str]] = {}
        projected = []
        for name in hub_names:
            if any(word in name for word in words):
                projected.append(name)
            for prefix in (name.removesuffix(each) for each in endings if name.endswith(each)):
                routed.setdefault(pattern_of(prefix), []).append(prefix)
        return cls(routed, sorted(projected))

    def has_projection(self, prefix: str) -> bool:
        """Return True if hidden vectors are projected for the experts of a module."""
        for begin in (f"{prefix}{word}." for word in projections()):
            place = bisect_left(self.projected, begin)
            if place < len(self.projected) and self.projected[place].startswith(begin):
                return True
        return False
