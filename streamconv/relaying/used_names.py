"""The names of the tensors of a stream: neither inputs nor outputs may have the same name twice."""

from streamconv.checkpoint.types import TensorInfo
from streamconv.errors import BadCheckpoint, PlanRefused, quoted


class UsedNames:
    """Remembers the inputs and the outputs of a stream."""

    def __init__(self) -> None:
        self._came: dict[str, int] = {}
        """The number of the pair with each input, by its hub name."""
        self._yielded: dict[str, str] = {}
        """The name of an input of each output, by the output's name."""

    def __contains__(self, hub_name: str) -> bool:
        """Return True if an input has arrived."""
        return hub_name in self._came

    def take(self, hub_name: str, info: TensorInfo) -> None:
        """Record an input. Raises BadCheckpoint if it has arrived before."""
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
