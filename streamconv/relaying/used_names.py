"""The names that tensors have had in a stream: no input and no output may come twice."""

from streamconv.checkpoint.types import TensorInfo
from streamconv.errors import BadCheckpoint, PlanRefused, quoted


class UsedNames:
    """Remembers the inputs and the outputs of a stream."""

    def __init__(self) -> None:
        self._came: dict[str, int] = {}
        """The number of the pair that each input came in, by its hub name."""
        self._yielded: dict[str, str] = {}
        """By the name of each output: the name of an input."""

    def __contains__(self, hub_name: str) -> bool:
        """Return True if an input has come."""
        return hub_name in self._came

    def take(self, hub_name: str, info: TensorInfo) -> None:
        """Record an input. Raises BadCheckpoint if it has come before."""
        number = len(self._came) + 1
        before = self._came.setdefault(hub_name, number)
        if before != number:
            raise BadCheckpoint(
                f"tensor {quoted(info.name)} comes twice: as number {before} and as number "
                f"{number} of the tensors",
                "begin a new relay for each pass over the weights",
            )

    def give(self, name: str, info: TensorInfo) -> str:
        """Record and return the name of an output.

        Args:
            name: The name.
            info: The last of its inputs.

        Raises:
            PlanRefused: Another output has the name.
        """
        other = self._yielded.setdefault(name, info.name)
        if other is not info.name:
            raise PlanRefused(
                f"two tensors would be called {quoted(name)}: {quoted(other)} and "
                f"{quoted(info.name)}"
            )
        return name
