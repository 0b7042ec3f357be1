"""Takes the tensors that a trainer emits, and yields them in another layout."""

import inspect
import itertools
from collections.abc import Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Self

from streamconv.catalog.catalog import Catalog
from streamconv.catalog.layouts import NamedLayout
from streamconv.checkpoint.types import TensorInfo
from streamconv.detection.group_names import GroupTensor
from streamconv.detection.stacks import check_alike
from streamconv.detection.tensor_groups import names_of_group
from streamconv.errors import UsageError
from streamconv.lazy.not_copied import NotCopied
from streamconv.relaying.headers import tensor_info
from streamconv.relaying.held_modules import HeldModules, name_of_layer
from streamconv.relaying.missing_tensors import check_complete
from streamconv.relaying.modules import ExpertKey, ModuleFinder
from streamconv.relaying.open_module import OpenExperts, OpenGroup, OpenModule
from streamconv.relaying.planner import Planner
from streamconv.relaying.request import RelayRequest
from streamconv.relaying.used_names import UsedNames

if TYPE_CHECKING:
    import torch

Pair = tuple[str, "torch.Tensor"]
"""Name and tensor."""

MAX_IN_GROUP = 2**16
"""More tensors than any group has. If the config asks for more, the rest is not waited for."""


class Relay(NotCopied, Iterator[Pair]):
    """An iterator over names and tensors in the target layout.

    It takes the next input only after all complete outputs have been taken from it.
    """

    why_not_copied = "it takes from an iterator; make one in each process"

    def __init__(
        self, named_tensors: "Iterable[Pair]", request: RelayRequest, catalog: Catalog
    ) -> None:
        """Prepare for a stream; see `streamconv.relay`."""
        if type(request.max_open_layers) is not int or request.max_open_layers < 1:
            raise UsageError(
                f"cannot keep {request.max_open_layers!r} layers open: max_open_layers has to be a "
                "number, at least 1"
            )
        self._request = request
        self._planner = Planner(request, catalog)
        self._finder = ModuleFinder(catalog, self._planner.family)
        self._experts: dict[str, OpenExperts] = {}
        """By the prefix of their module."""
        self._groups: dict[tuple[str, NamedLayout], OpenGroup] = {}
        """By the prefix of their module, and the layout."""
        self._names = UsedNames()
        self._held = HeldModules()
        self._pairs = self._run(named_tensors)

    @property
    def held_bytes(self) -> int:
        """Bytes of tensors that are kept in memory: waiting inputs and incomplete outputs."""
        return self._held.held_bytes

    @property
    def peak_bytes(self) -> int:
        """The largest number that `held_bytes` has been."""
        return self._held.peak_bytes

    def __repr__(self) -> str:
        """Return the target, and what it holds, in one line."""
        return f"Relay(to={self._request.to!r}, held_bytes={self.held_bytes})"

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> "Pair":
        self._check_idle()
        return next(self._pairs)

    def close(self) -> None:
        """Drop what is held. The relay yields nothing more."""
        self._check_idle()
        self._pairs.close()
        self._drop()

    def _check_idle(self) -> None:
        if inspect.getgeneratorstate(self._pairs) == inspect.GEN_RUNNING:
            raise UsageError(
                "cannot use the relay: another thread, or its own input, is taking from it"
            )

    def _drop(self) -> None:
        self._held.clear()
        self._experts.clear()
        self._groups.clear()

    def _run(self, named_tensors: "Iterable[Pair]") -> "Generator[Pair, None, None]":
        try:
            for pair in named_tensors:
                if not isinstance(pair, tuple | list) or len(pair) != 2:
                    raise UsageError(
                        f"cannot relay a {type(pair).__name__}: it is not a pair of name and tensor"
                    )
                name, tensor = pair
                del pair
                yield from self._take(name, tensor)
                # so that this tensor can be freed while the trainer makes the next one
                del tensor
            for experts in list(self._experts.values()):
                if experts.module.waiting:
                    yield from self._settle(experts)
            check_complete(self._experts, self._groups.values(), self._names, self._planner)
        finally:
            self._drop()

    def _take(self, name: str, tensor: "torch.Tensor") -> "Iterator[Pair]":
        """Yield the outputs that one more tensor completes."""
        info = tensor_info(name, tensor)
        hub_name = self._planner.names.hub_name(info)
        self._names.take(hub_name, info)
        experts = self._finder.expert(hub_name, info)
        if experts is not None:
            yield from self._take_expert(hub_name, *experts, info, tensor)
            return
        group = self._finder.group(hub_name, self._planner.names.possible[0])
        names = group and names_of_group(*group, self._request.config)
        if group and names is not None:
            yield from self._take_of_group(hub_name, *group, names, info, tensor)
            return
        made = tensor.detach()
        name = self._names.give(self._planner.name_other(hub_name, info), info)
        yield name, made if self._request.views else made.contiguous()

    def _take_expert(
        self,
        hub_name: str,
        prefix: str,
        key: ExpertKey,
        info: TensorInfo,
        tensor: "torch.Tensor",
    ) -> "Iterator[Pair]":
        """Yield the outputs that one more tensor of an expert completes."""
        experts = self._experts.get(prefix)
        if experts is None:
            experts = self._experts[prefix] = OpenExperts(self._open(prefix))
        module = experts.module
        is_new = key.name not in experts.found
        _, first = experts.found.setdefault(key.name, (key, info))
        check_alike([first, info])
        suffix = hub_name.removeprefix(prefix)
        module.waiting[suffix] = info, tensor
        del tensor
        if is_new or not module.is_settled:
            self._plan(experts)
        yield from self._emit(module)
        yield from self._make_room()
        module.keep(suffix)

    def _plan(self, experts: OpenExperts, *, is_final: bool = False) -> None:
        """Plan experts by their tensors that have arrived, if these settle the plan."""
        module = experts.module
        plan = self._planner.experts.plan(module.prefix, experts.found, is_final=is_final)
        module.is_settled = plan is not None
        module.plan = plan or module.plan

    def _take_of_group(
        self,
        hub_name: str,
        found: GroupTensor,
        row: NamedLayout,
        names: Iterable[str],
        info: TensorInfo,
        tensor: "torch.Tensor",
    ) -> "Iterator[Pair]":
        """Yield the outputs of a group if all of its tensors have arrived."""
        group = self._groups.get((found.prefix, row))
        if group is None:
            group = OpenGroup(self._open(found.prefix), {*itertools.islice(names, MAX_IN_GROUP)})
            self._groups[found.prefix, row] = group
        group.left.discard(hub_name)
        module = group.module
        suffix = hub_name.removeprefix(found.prefix)
        module.waiting[suffix] = info, tensor
        del tensor
        if not group.left:
            infos = [each for each, _ in module.waiting.values()]
            module.plan = self._planner.plan_group(found.prefix, row, infos)
            module.is_settled = True
        yield from self._emit(module)
        yield from self._make_room()
        module.keep(suffix)

    def _open(self, prefix: str) -> OpenModule:
        return OpenModule(prefix, views=self._request.views)

    def _emit(self, module: OpenModule) -> "Iterator[Pair]":
        """Yield the outputs of a module that are complete, and count what it still keeps."""
        while module.plan and (suffix := module.next_to_place()) is not None:
            info, tensor = module.waiting.pop(suffix)
            for output, made in module.place(suffix, info, tensor):
                self._held.update(module)
                name = module.plan.names.apply(module.prefix + output.suffix)
                yield self._names.give(name, info), made
            del tensor
        self._held.update(module)

    def _make_room(self) -> "Iterator[Pair]":
        """Yield outputs that only wait for further kinds of weights, if too many layers are open.

        Raises PlanRefused if too many layers are open even then.
        """
        most = self._request.max_open_layers
        if layers := self._held.surplus(most):
            for experts in list(self._experts.values()):
                if experts.module.waiting and name_of_layer(experts.module.prefix) in layers:
                    yield from self._settle(experts)
        self._held.check(most)

    def _settle(self, experts: OpenExperts) -> "Iterator[Pair]":
        """Yield the complete outputs of experts, as no further kinds of weights will arrive."""
        self._plan(experts, is_final=True)
        yield from self._emit(experts.module)
