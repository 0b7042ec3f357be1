"""A reader with which torch.distributed.checkpoint loads any checkpoint, in any layout.

    import torch.distributed.checkpoint as dcp
    import streamconv.torch

    reader = streamconv.torch.StorageReader("hf://Qwen/Qwen3-30B-A3B", to="transformers")
    dcp.load(model.state_dict(), storage_reader=reader)

It is imported by its own name: `import streamconv` does not import torch.
"""

from typing import Unpack

from streamconv.api.argument_checks import checked_value
from streamconv.api.option_docs import takes
from streamconv.errors import PlanRefused
from streamconv.lazy.opening import open_checkpoint
from streamconv.options import LazyOptions, Location
from streamconv.system.extras import require_extra

try:
    require_extra("import streamconv.torch", "torch", ("torch",))
except PlanRefused as missing:
    missing.add_note(missing.hint)
    raise

from streamconv.lazy.checkpoint import LazyCheckpoint
from streamconv.lazy.storage_reader import LazyStorageReader

__all__ = ["StorageReader"]


class StorageReader(LazyStorageReader):
    """Fills a state dict from a checkpoint in another layout, without converting it.

    For `torch.distributed.checkpoint.load`. A rank reads only its own shards of a tensor, straight
    into their memory. The reader opens the checkpoint when it is made, from headers alone, and
    closes it after a load. The next load opens it again.
    """

    @takes(LazyOptions)
    def __init__(
        self,
        src: Location,
        to: str | None = None,
        *,
        prefix: str = "",
        partial: bool = False,
        jobs: int | None = None,
        **options: Unpack[LazyOptions],
    ) -> None:
        """Open a checkpoint.

        Args:
            src: Folder, hub repository (`hf://org/name@revision`) or URL that fsspec opens.
            to: Form or layout of the state dict, such as `transformers`. Default: as it is stored.
            prefix: Prefix that the model's keys have in the state dict, in addition to the names of
                its tensors: `model.` for `{"model": model.state_dict()}`.
            partial: True to leave keys as they are if the checkpoint has no tensor for them, such
                as those of an optimizer. `missing_keys` lists them. Default: raise an error.
            jobs: Number of threads that read, from 1 to 1024. Default: 2, but 8 if `src` is read
                over a network.
            {options}

        Raises:
            UsageError: An option makes no sense.
            BadCheckpoint: The checkpoint is malformed, incomplete or contradicts itself.
            PlanRefused: The conversion is impossible.
            IOFailed: Reading failed.
        """

        def opened(location: Location) -> LazyCheckpoint:
            known = checked_value("StorageReader", "checkpoint_id", location, Location)
            return open_checkpoint(known, to, "pt", options)

        super().__init__(
            src,
            opened,
            prefix=prefix,
            partial=partial,
            jobs=jobs,
        )
