"""A module whose tensors are arriving: it yields each output as soon as it is complete."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from streamconv.checkpoint.types import TensorInfo
from streamconv.errors import BadCheckpoint, quoted
from streamconv.relaying.module_plan import ModulePlan, PlannedOutput
from streamconv.relaying.modules import ExpertKey
from streamconv.relaying.tensors import Assembly, make_of_one

if TYPE_CHECKING:
    import torch


class OpenModule:
    """The tensors of a module that have arrived, and the outputs that are not complete yet."""

    def __init__(self, prefix: str, *, views: bool) -> None:
        self.prefix = prefix
        self.is_settled = False
        """True if the plan has a place for every tensor that has arrived."""
        self._plan: ModulePlan | None = None
        self.waiting: dict[str, tuple[TensorInfo, torch.Tensor]] = {}
        """By the name below the module: tensors that the plan has no place for yet."""
        self._views = views
        self._assemblies: dict[str, Assembly] = {}
        self._started: dict[str, PlannedOutput] = {}
        """The outputs that have received an input, by their names below the module."""

    @property
    def plan(self) -> ModulePlan | None:
        """The plan for the module, as far as it is known."""
        return self._plan

    @plan.setter
    def plan(self, plan: ModulePlan | None) -> None:
        """Follow another plan, as further tensors have arrived.

        Raises BadCheckpoint if the plan makes outputs that were started in another way.
        """
        if plan is not self._plan:
            for output in plan.outputs if plan else ():
                started = self._started.get(output.suffix, output)
                if started.moves != output.moves:
                    raise BadCheckpoint(
                        f"the tensors of {quoted(self.prefix)} that came first do not show what "
                        f"{quoted(started.inputs[0])} means",
                        "emit the weights before their scales",
                    )
        self._plan = plan

    def next_to_place(self) -> str | None:
        """Return the name below the module of a waiting tensor that the plan can place, or None."""
        if self._plan is None:
            return None
        known = (name for name in self.waiting if self.is_settled or name in self._plan.uses)
        return next(known, None)

    def keep(self, suffix: str) -> None:
        """Copy a tensor that still waits, because its memory may be reused for the next tensor.

        If views are wanted, do nothing: then the caller leaves all tensors as they are.
        """
        if suffix in self.waiting and not self._views:
            info, tensor = self.waiting[suffix]
            self.waiting[suffix] = info, tensor.detach().clone()

    @property
    def held_bytes(self) -> int:
        """Bytes of tensors that it keeps in memory."""
        waiting = sum(tensor.nbytes for _, tensor in self.waiting.values())
        return waiting + sum(assembly.nbytes for assembly in self._assemblies.values())

    def place(
        self, suffix: str, info: TensorInfo, tensor: "torch.Tensor"
    ) -> Iterator[tuple[PlannedOutput, "torch.Tensor"]]:
        """Yield the outputs that one more input completes.

        Args:
            suffix: The name of the input below the module.
            info: The input, as a header describes it.
            tensor: The input itself.

        Raises:
            BadCheckpoint: The plan has no such tensor, or an output would be made of tensors on
                two devices.
        """
        assert self.plan is not None
        if suffix not in self.plan.uses:
            raise BadCheckpoint(
                f"unexpected tensor {quoted(info.name)}: by config.json and the tensors before it, "
                f"its module has {len(self.plan.uses)} tensors, and this is not one of them",
                "correct the number of experts in the config",
            )
        uses = self.plan.uses[suffix]
        if not all(self.plan.outputs[number].moves.is_whole for number, _ in uses):
            tensor = tensor.contiguous()
        for number, at in uses:
            output = self.plan.outputs[number]
            self._started[output.suffix] = output
            if len(output.inputs) == 1:
                yield output, make_of_one(output.moves, tensor, views=self._views)
                continue
            assembly = self._assemblies.setdefault(output.suffix, Assembly(output.moves))
            made = assembly.add(at, info.name, tensor)
            if made is not None:
                del self._assemblies[output.suffix]
                yield output, made


@dataclass(frozen=True, slots=True)
class OpenExperts:
    """The experts of a layer of which some tensors have arrived."""

    module: OpenModule
    found: dict[str, tuple[ExpertKey, TensorInfo]] = field(default_factory=dict)
    """The first tensor of each name below the module."""


@dataclass(frozen=True, slots=True)
class OpenGroup:
    """A group of which some tensors have arrived."""

    module: OpenModule
    left: set[str]
    """Hub names of the tensors that have not arrived."""
