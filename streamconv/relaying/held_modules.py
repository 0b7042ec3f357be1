"""Counts the bytes and layers of the modules whose tensors are kept in memory."""

from streamconv.checkpoint.tensor_names import layer_of
from streamconv.errors import PlanRefused, quoted
from streamconv.relaying.open_module import OpenModule


class HeldModules:
    """Counts what is kept in memory, module by module."""

    def __init__(self) -> None:
        self._bytes: dict[OpenModule, int] = {}
        """Bytes of each module that keeps tensors, in the order of their last updates."""
        self._peak = 0

    @property
    def held_bytes(self) -> int:
        """Bytes that all modules keep in memory."""
        return sum(self._bytes.values())

    @property
    def peak_bytes(self) -> int:
        """The largest number that `held_bytes` has been."""
        return self._peak

    def update(self, module: OpenModule) -> None:
        """Count what a module keeps in memory now."""
        self._bytes.pop(module, None)
        if module.held_bytes:
            self._bytes[module] = module.held_bytes
        self._peak = max(self._peak, self.held_bytes)

    def clear(self) -> None:
        """Forget all modules."""
        self._bytes.clear()

    def surplus(self, most: int) -> list[str]:
        """Return all open layers except the last one, or none if at most `most` are open."""
        layers = self._layers()
        return layers[:-1] if len(layers) > most else []

    def check(self, most: int) -> None:
        """Raise PlanRefused if more than `most` layers are open."""
        layers = self._layers()
        if len(layers) > most:
            *others, last = layers
            raise PlanRefused(
                f"cannot begin {quoted(last)}: {', '.join(map(quoted, others))} "
                f"{'is' if len(others) == 1 else 'are'} not complete, and max_open_layers is "
                f"{most}",
                "emit the tensors layer by layer, or allow more layers at once",
            )

    def _layers(self) -> list[str]:
        """Return the layers that are kept in memory, in the order of their last updates."""
        return [*dict.fromkeys(name_of_layer(module.prefix) for module in self._bytes)]


def name_of_layer(prefix: str) -> str:
    """Return the layer that a module is in, or the module if it is in none."""
    layer = layer_of(prefix)
    return f"{layer[0]}{layer[1]}" if layer else prefix
