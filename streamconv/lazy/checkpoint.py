"""A checkpoint that is open in some layout, and reads what it is asked for."""

import json
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from streamconv.checkpoint.layout_record import METADATA_KEY
from streamconv.checkpoint.types import Checkpoint
from streamconv.errors import quoted, wrong_type
from streamconv.formats.safetensors import DTYPE_BITS
from streamconv.lazy.arrays import Arrays
from streamconv.lazy.not_copied import NotCopied
from streamconv.lazy.reading import SliceReader
from streamconv.lazy.tensor import LazyTensor
from streamconv.planning.build import Outputs


class LazyCheckpoint(NotCopied):
    """An open checkpoint. It has the methods of `safetensors.safe_open`, and is a context manager.

    Several threads may use it, and so may processes that were forked.
    """

    def __init__(
        self,
        source: Checkpoint,
        outputs: Outputs,
        reader: SliceReader,
        arrays: Arrays,
        *,
        is_torch: bool,
    ) -> None:
        self.source = source
        """The checkpoint as it is stored."""
        self._steps = outputs.steps
        self._outputs = outputs
        self._reader = reader
        self._arrays = arrays
        self._is_torch = is_torch

    def keys(self) -> list[str]:
        """Return the names of all tensors, sorted as safetensors sorts them."""
        return sorted(map(self._steps.name, range(len(self._steps))))

    def offset_keys(self) -> list[str]:
        """Return the names of all tensors in the order of their bytes in a converted file."""
        steps = self._steps
        numbers = sorted(range(len(steps)), key=lambda number: -DTYPE_BITS[steps.dtype(number)])
        return list(map(steps.name, numbers))

    def metadata(self) -> dict[str, str]:
        """Return the metadata of a converted file, which names its layouts."""
        record = json.dumps(self._outputs.record.to_json(), sort_keys=True)
        return {"format": "pt", METADATA_KEY: record}

    def get_tensor(self, name: str) -> Any:
        """Read a tensor.

        Args:
            name: Its name.

        Returns:
            A tensor of torch or an array of numpy, which outlives the checkpoint.

        Raises:
            SafetensorError: There is no such tensor.
            UsageError, SourceChanged, IOFailed: As for indexing a lazy tensor.
        """
        return self.get_slice(name).read()

    def get_tensors(self) -> dict[str, Any]:
        """Read every tensor.

        Returns:
            Tensors of torch or arrays of numpy, by name, in the order of `offset_keys`.

        Raises:
            UsageError, SourceChanged, IOFailed: As for indexing a lazy tensor.
        """
        return {name: self.get_tensor(name) for name in self.offset_keys()}

    def get_slice(self, name: str) -> LazyTensor:
        """Return a tensor without reading it: an index reads what it selects.

        Raises SafetensorError if there is no such tensor.
        """
        from safetensors import SafetensorError

        try:
            return self[name]
        except KeyError:
            raise SafetensorError(f"File does not contain tensor {name}") from None

    def __getitem__(self, name: str) -> LazyTensor:
        """Return a tensor without reading it. Raises KeyError."""
        if not isinstance(name, str):
            raise wrong_type("LazyCheckpoint.__getitem__", "name", "str", name)
        return self._lazy(self._steps.find(name))

    def __contains__(self, name: object) -> bool:
        try:
            return isinstance(name, str) and self._steps.find(name) >= 0
        except KeyError:
            return False

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self._steps)

    def items(self) -> Iterator[tuple[str, LazyTensor]]:
        """Yield the name and the tensor of each key, without reading it, in the order of `keys`."""
        for name in self.keys():
            yield name, self[name]

    def stream(self) -> Iterator[tuple[str, Any]]:
        """Yield name and content of every tensor, in the order in which the source stores them.

        While the caller uses a tensor, the next one is read. Raises what indexing a lazy tensor
        raises.
        """
        from concurrent.futures import ThreadPoolExecutor

        steps = self._steps
        places = [self._lazy(number).place for number in range(len(steps))]
        order = sorted(range(len(steps)), key=places.__getitem__)
        with ThreadPoolExecutor(1, "streamconv-ahead") as pool:
            ahead = None
            for number in [*order, None]:
                following = pool.submit(self._read, number) if number is not None else None
                if ahead is not None:
                    yield ahead.result()
                ahead = following

    def _read(self, number: int) -> tuple[str, Any]:
        tensor = self._lazy(number)
        return tensor.name, tensor.read()

    @property
    def bytes_read(self) -> int:
        """Bytes that were requested from the source, except headers. A view counts in full."""
        return self._reader.bytes_read

    def check_unchanged(self) -> None:
        """Check that every file that was read is what it was when the checkpoint was opened.

        Raises:
            SourceChanged: A file was changed, replaced or removed.
            IOFailed: The file system or the server does not answer.
        """
        self._reader.check_unchanged()

    def close(self) -> None:
        """Close the source. What was read stays; a lazy tensor raises UsageError from now on."""
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<LazyCheckpoint of {quoted(self.source.location)}: {len(self):,} tensors>"

    def _lazy(self, number: int) -> LazyTensor:
        return LazyTensor(
            self._steps[number],
            self._reader,
            self._arrays,
            is_torch=self._is_torch,
            segments=lambda axis: self._steps.segments(number, axis),
        )
