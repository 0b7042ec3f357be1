"""The paths of tensors in the nested state dict: `planner_data` in a `.metadata`.

    "model.embed.weight"  ->  ("model", "embed.weight")

torch joins the parts of a path with dots into the key of the tensor, and lists all keys or none.
Frameworks list others, too. A tensor that is not listed has a path of one part, its key.
"""

from typing import Any

from streamconv.errors import BadCheckpoint, quoted
from streamconv.formats.dcp_metadata_limits import Budget
from streamconv.formats.safetensors import MAX_SIZE


class Paths:
    """The paths by key, as untrusted data.

    Args:
        planner_data: The value of the field, of any kind.
        budget: Each part of a path that is looked at counts.
    """

    def __init__(self, planner_data: Any, budget: Budget) -> None:
        self._paths = planner_data if isinstance(planner_data, dict) else {}
        self._budget = budget
        self._unlisted: set[str] = set()
        """The keys that were asked for and are not listed."""

    def of(self, key: Any) -> tuple[str, ...]:
        """Return the path of a tensor. Raises TypeError if it or the key is of another kind."""
        if not isinstance(key, str):
            raise TypeError
        if key in self._paths:
            return self._parsed(self._paths[key])
        if self._paths:
            self._unlisted.add(key)
        return (key,)

    def check_keys(self, label: str) -> None:
        """Refuse a path that is listed under another key than the one that it joins to.

        torch would put that tensor at another place of the state dict. To be called after `of` was
        called for each tensor. Raises BadCheckpoint; `label` names the file.
        """
        longest = max(map(len, self._unlisted), default=0)
        for key, path in self._paths.items() if self._unlisted else ():
            try:
                parts = self._parsed(path)
            except TypeError:
                continue  # a framework's own value
            # a path may repeat one long text many times
            if sum(map(len, parts)) > longest:
                continue
            joined = ".".join(parts)
            if joined in self._unlisted:
                named = quoted(key) if isinstance(key, str) else "a key that is no text"
                raise BadCheckpoint(
                    f"cannot read {label}: it lists the path of {quoted(joined)} under {named}",
                    "restore the file, or save the checkpoint again",
                )

    def _parsed(self, path: Any) -> tuple[str, ...]:
        """Return a path as text.

        Only text and numbers are converted. The text of a nested tuple may be longer than memory:
        each level of a tuple that contains the next one twice doubles it.
        """
        if not isinstance(path, tuple | list):
            raise TypeError
        self._budget.spend(len(path))
        for part in path:
            if not isinstance(part, str | int) or (isinstance(part, int) and abs(part) >= MAX_SIZE):
                raise TypeError
        return tuple(map(str, path))
