"""Renames that a user asks for with `--rename OLD=NEW`, before anything is detected.

    module.=              every `module.` in a name is left out, wherever it is
    moe.w1=mlp.gate_proj  every `moe.w1` becomes `mlp.gate_proj`
    layers.*.moe=layers.*.mlp   the `*` is any text, as little of it as possible
    model.*=*             with a `*` at one of its ends, OLD is the whole name

Several are applied to each name one after the other.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from streamconv.checkpoint.types import AppliedRename, Checkpoint, TensorInfo
from streamconv.errors import UsageError, quoted


@dataclass(frozen=True, slots=True)
class UserRename:
    """A rename of every tensor whose name contains `old`."""

    old: str
    new: str

    def __str__(self) -> str:
        """Return the rename as `parse_rename` reads it."""
        return f"{self.old}={self.new}"

    def apply(self, name: str) -> str:
        """Return the name with every occurrence of `old` replaced."""
        if "*" not in self.old:
            return name.replace(self.old, self.new)
        before, _, after = self.old.partition("*")
        parts: list[str] = []
        rest = 0
        for begin, end in self._occurrences(name, before, after):
            star = name[begin + len(before) : end - len(after)]
            parts += (name[rest:begin], self.new.replace("*", star))
            rest = end
        return "".join([*parts, name[rest:]])

    @staticmethod
    def _occurrences(name: str, before: str, after: str) -> Iterator[tuple[int, int]]:
        """Yield begin and end of each occurrence of two texts with at least one character between.

        Each is as short as possible. If one of the texts is empty, only the whole name counts.
        """
        if not before or not after:
            is_whole = name.startswith(before) and name.endswith(after)
            if is_whole and len(name) > len(before) + len(after):
                yield 0, len(name)
            return
        end = 0
        while (begin := name.find(before, end)) >= 0:
            place = name.find(after, begin + len(before) + 1)
            if place < 0:
                return
            end = place + len(after)
            yield begin, end


def parse_rename(text: str) -> UserRename:
    """Read `OLD=NEW`. Raises UsageError if it is not a rename."""
    old, equals, new = text.partition("=")
    if not equals or not old:
        raise UsageError(
            f"cannot use the rename {quoted(repr(text))}: it is not OLD=NEW",
            "write module.= to leave out every `module.`, or '*=model.*' to put it before every "
            "name",
        )
    if old.count("*") > 1 or new.count("*") > old.count("*"):
        raise UsageError(
            f"cannot use the rename {quoted(repr(text))}: OLD may have one *, and NEW one if OLD "
            "has it",
            "give --rename several times for several changes",
        )
    return UserRename(old, new)


def rename_tensors(
    checkpoint: Checkpoint, renames: Sequence[UserRename]
) -> tuple[Checkpoint, Mapping[str, str]]:
    """Return the checkpoint with renamed tensors, and the stored name of each, by its new name.

    Raises UsageError if a rename changes no name, or if two tensors get one name.
    """
    counts: Counter[UserRename] = Counter()
    tensors: dict[str, TensorInfo] = {}
    stored: dict[str, str] = {}
    for old, info in checkpoint.tensors.items():
        name = old
        for rename in renames:
            new = rename.apply(name)
            counts[rename] += new != name
            name = new
        if name in tensors:
            raise _collision(name, old, stored[name])
        if not name:
            raise UsageError(
                f"cannot rename {quoted(old)}: nothing would be left of its name",
                "name only a part of it to be left out",
            )
        tensors[name] = info if name == old else info._replace(name=name)
        stored[name] = old
    for rename in renames:
        if not counts[rename]:
            raise UsageError(
                f"cannot rename {quoted(str(rename))}: it changes no name of a tensor of "
                f"{checkpoint.location}",
                "see the names with `streamconv inspect`",
            )
    applied = tuple(AppliedRename(str(rename), counts[rename]) for rename in renames)
    return replace(checkpoint, tensors=tensors, renames=applied), stored


def _collision(name: str, one: str, other: str) -> UsageError:
    """Return the error for two tensors that get one name, which one of them may already have."""
    renamed, second = (one, other) if name != one else (other, one)
    fact = "there is a tensor of that name" if second == name else f"{quoted(second)} gets it, too"
    return UsageError(
        f"cannot rename {quoted(renamed)} to {quoted(name)}: {fact}",
        "write more of the names in --rename, so that it fits fewer of them",
    )
