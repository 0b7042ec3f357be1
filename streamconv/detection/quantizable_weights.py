"""Find the weights that `--quantize` can store as codes, and choose among them by their names."""

from collections.abc import Iterable
from fnmatch import fnmatchcase

from streamconv.checkpoint.casting import FLOATS, Casting
from streamconv.checkpoint.types import TensorInfo
from streamconv.detection.detect import Detected
from streamconv.detection.expert_views import expert_views, is_matrix, is_one_by_one
from streamconv.errors import PlanRefused, quoted
from streamconv.quantization.quantized_config import unquantized_kind


class QuantizableWeights:
    """The weights that can be quantized, with merged experts seen one by one."""

    def __init__(self, found: Detected) -> None:
        self.merged: dict[str, dict[str, list[TensorInfo]]] = {}
        """Views of merged experts, by the pattern of the stack, then by the tensor they replace."""
        self.patterns: dict[str, str] = {}
        """The pattern of the stack that each matrix of an expert is in, by the matrix's name."""
        self.infos: dict[str, TensorInfo] = {}
        """All matrices, by name."""
        self.hub_names = {info.name: hub_name for hub_name, info in found.hub_names.items()}
        self.default: set[str] = set()
        """Names of the matrices that are quantized unless the user chooses others."""
        self.pattern_of_merged: dict[str, str] = {}
        """The pattern of the stack of each tensor that holds several experts, by its name."""
        for stack in found.stacks:
            for module in stack.modules:
                names = [i.name for infos in module.tensors.values() for i in infos]
                if is_one_by_one(stack):
                    weights = [w for w in module.tensors if is_matrix(w)]
                    matrices = [i for weight in weights for i in module.tensors[weight]]
                else:
                    views = list(expert_views(found, stack, module))
                    self.merged.setdefault(stack.pattern, {})[names[0]] = views
                    self.pattern_of_merged |= dict.fromkeys(names, stack.pattern)
                    matrices = [info for info in views if len(info.shape) == 2]
                self.patterns |= {info.name: stack.pattern for info in matrices}
                self._add(matrices, is_default=True)
        paths = tuple(each.path for each in found.layer_lists)
        for hub_name, info in found.hub_names.items():
            if info.name not in self.pattern_of_merged and info.name not in self.infos:
                in_layer = hub_name.startswith(paths) and hub_name.endswith(".weight")
                is_linear = in_layer and unquantized_kind(hub_name, found.family) is None
                self._add([info], is_default=is_linear)

    def _add(self, infos: Iterable[TensorInfo], *, is_default: bool) -> None:
        for info in infos:
            if len(info.shape) == 2 and info.dtype in FLOATS and info.elements:
                self.infos[info.name] = info
                if is_default:
                    self.default.add(info.name)

    def choose(self, casting: Casting, location: str) -> set[str]:
        """Return the names of the weights that are quantized. Raises PlanRefused."""
        chosen = set(self.default)
        if casting.only:
            chosen = set()
            for pattern in casting.only:
                wanted = self._matching(pattern, self.default)
                chosen |= wanted or self._matching(pattern, self.infos.keys())
                if not wanted and not self._matching(pattern, self.infos.keys()):
                    raise _unknown("--only", pattern)
        for pattern in casting.skip:
            skipped = self._matching(pattern, self.infos.keys())
            if not skipped:
                raise _unknown("--except", pattern)
            chosen -= skipped
        if not chosen:
            why = "holds no experts, and no linear layers of a list of layers"
            if casting.only or casting.skip:
                why = f"--only and --except leave none of its {len(self.default):,} weights"
            raise PlanRefused(
                f"cannot quantize {location}: {why}",
                "choose other names, or leave out --quantize",
            )
        return chosen

    def _matching(self, pattern: str, names: Iterable[str]) -> set[str]:
        return {
            name
            for name in names
            if fnmatchcase(name, pattern) or fnmatchcase(self.hub_names.get(name, name), pattern)
        }


def _unknown(option: str, pattern: str) -> PlanRefused:
    return PlanRefused(
        f"cannot apply {option} {quoted(pattern)}: no matrix has that name",
        "write a name with * for any text, as in --only '*.experts.*'",
    )
