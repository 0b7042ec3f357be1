"""Reads a lazy checkpoint into the state dicts of torch.distributed.checkpoint.

A planner of torch finds out which boxes of which tensors a rank holds, and asks for them. Each is a
box of a lazy tensor (`box_requests.py`). The only decision here is which keys are left as they are.
"""

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from os import PathLike
from types import TracebackType
from typing import Any, Self

import torch
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.storage import StorageReader
from torch.futures import Future

from streamconv.errors import BadCheckpoint, StreamconvError
from streamconv.lazy.box_requests import BoxRequest, box_requests, check_targets
from streamconv.lazy.checkpoint import LazyCheckpoint
from streamconv.lazy.filling import copy_into, fill_tensor
from streamconv.lazy.load_errors import missing_keys_error, show_hint
from streamconv.lazy.not_copied import NotCopied
from streamconv.lazy.storage_metadata import Keys, metadata_of
from streamconv.options import DEFAULT_JOBS, Location, check_jobs
from streamconv.planning.manifest import fingerprint_of
from streamconv.planning.memory import REMOTE_JOBS
from streamconv.system.cancellation import CancelToken
from streamconv.system.worker_threads import map_unordered


@dataclass(frozen=True, slots=True)
class _RankFacts:
    """What a rank tells the others about the checkpoint that it has opened."""

    fingerprint: str
    missing_keys: tuple[str, ...]


class LazyStorageReader(NotCopied, StorageReader):
    """Fills a state dict from a lazy checkpoint. It is a context manager."""

    def __init__(
        self,
        src: Location,
        open_lazy: Callable[[Location], LazyCheckpoint],
        *,
        prefix: str,
        partial: bool,
        jobs: int | None,
    ) -> None:
        """Open a checkpoint.

        Args:
            src: Where it is.
            open_lazy: Opens it with torch tensors.
            prefix: Begins each key of its tensors in the state dict.
            partial: True to leave keys as they are if the checkpoint has no tensor for them.
            jobs: Number of threads that read; None for a number that fits the source.

        Raises:
            StreamconvError: As for opening a lazy checkpoint.
        """
        check_jobs(jobs)
        self._src = src
        self._open_lazy = open_lazy
        self._prefix = prefix
        self._partial = partial
        self._jobs = jobs
        self._missing: tuple[str, ...] = ()
        self._is_open = False
        self._open()

    @property
    def bytes_read(self) -> int:
        """Bytes that this rank has requested from the source, except headers, for the last load."""
        return self._lazy.bytes_read

    @property
    def missing_keys(self) -> tuple[str, ...]:
        """Keys of the state dict that the last load has left as they were."""
        return self._missing

    @property
    def checkpoint_id(self) -> str | PathLike[str]:
        """Location of the checkpoint."""
        return self._src

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | PathLike[str]) -> bool:
        """Return True if it has the type of a location. Any location may be a checkpoint."""
        return isinstance(checkpoint_id, str | PathLike)

    def reset(self, checkpoint_id: str | PathLike[str] | None = None) -> None:
        """Open another checkpoint, if one is named.

        Raises what opening it raises. Then the reader is still one of the checkpoint before.
        """
        if checkpoint_id is not None:
            self.close()
            before, self._src = self._src, checkpoint_id
            try:
                self._open()
            except BaseException:
                self._src = before
                raise

    def read_metadata(self, *args: Any) -> Metadata:
        """Return the metadata of the checkpoint, which a planner makes its plan from."""
        self._open()
        return metadata_of(self._keys)

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any) -> None:
        """Do nothing: the checkpoint is open."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Return the plan of this rank without the keys that are left as they are.

        Raises:
            BadCheckpoint: There are such keys, and none may be left.
        """
        asked = (item for item in plan.items if item.type is LoadItemType.BYTE_IO)
        self._missing = tuple(dict.fromkeys(item.storage_index.fqn for item in asked))
        if self._missing and not self._partial:
            raise self._failed(self._missing_error(self._missing))
        items = [item for item in plan.items if item.type is not LoadItemType.BYTE_IO]
        return replace(plan, items=items, storage_data=_RankFacts(self._fingerprint, self._missing))

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """Return the plans of all ranks, if they have opened the same checkpoint in the same way.

        Raises:
            BadCheckpoint: They have not, or no key of any rank is in the checkpoint.
        """
        for rank, plan in enumerate(plans):
            if plan.storage_data.fingerprint != plans[0].storage_data.fingerprint:
                raise self._failed(
                    BadCheckpoint(
                        f"cannot load {self._src}: rank {rank} has opened another checkpoint than "
                        "rank 0, or in another way",
                        "name the commit of a repository, and the same options on every rank",
                    )
                )
        missing = dict.fromkeys(key for plan in plans for key in plan.storage_data.missing_keys)
        if missing and not any(plan.items for plan in plans):
            raise self._failed(self._missing_error(tuple(missing)))
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> "Future[None]":
        """Read all that a plan asks for, and close the checkpoint.

        Raises:
            SourceChanged: A file has changed since the checkpoint was opened.
            StreamconvError: Reading failed.
        """
        try:
            with closing(self._read(plan.items, planner)) as done_items:
                for _ in done_items:
                    pass
            self._lazy.check_unchanged()
        except StreamconvError as error:
            raise self._failed(error) from None
        finally:
            self.close()
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def close(self) -> None:
        """Close the checkpoint."""
        self._is_open = False
        self._lazy.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _open(self) -> None:
        """Open the checkpoint, unless it is open."""
        if self._is_open:
            return
        self._lazy = self._open_lazy(self._src)
        self._is_open = True
        try:
            self._keys = Keys(self._lazy, self._prefix)
            self._fingerprint = _fingerprint(self._lazy, self._keys, (self._prefix, self._partial))
        except BaseException:
            self.close()
            raise

    def _missing_error(self, missing: Sequence[str]) -> BadCheckpoint:
        return missing_keys_error(self._src, missing, self._keys.names, self._prefix)

    def _failed(self, error: StreamconvError) -> StreamconvError:
        """Return an error with its hint as a note, which torch shows; close the checkpoint."""
        self.close()
        show_hint(error)
        return error

    def _read(self, items: Iterable[ReadItem], planner: LoadPlanner) -> Generator[None]:
        """Read all boxes that a planner asks for. Yields after each."""
        lock = threading.Lock()

        def read(_: None, request: BoxRequest) -> Iterator[None]:
            first: torch.Tensor | None = None
            for item in request.items:
                with lock:
                    target = planner.resolve_tensor(item).detach()
                if first is None or first.dtype != target.dtype:
                    fill_tensor(target, request.tensor, request.box)
                else:
                    copy_into(target, first)
                with lock:
                    planner.commit_tensor(item, target)
                first = target
            yield

        requests = sorted(
            box_requests(items, self._keys), key=lambda one: (one.tensor.place, one.box)
        )
        check_targets(requests, planner)
        jobs = self._jobs or (REMOTE_JOBS if self._lazy.source.remote else DEFAULT_JOBS)
        return map_unordered(iter(requests), jobs, lambda: None, read, CancelToken())


def _fingerprint(lazy: LazyCheckpoint, keys: Keys, facts: Sequence[object]) -> str:
    """Return a digest of what a checkpoint is, how it was opened, and other facts."""
    return fingerprint_of(
        {
            "revision": lazy.source.revision,
            "files": [[file.name, file.size, file.digest] for file in lazy.source.files],
            "layouts": lazy.metadata(),
            "tensors": keys.facts(),
            "facts": list(facts),
        }
    )
