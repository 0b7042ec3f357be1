"""Names of experts, however they are numbered, lead to the same module."""

from streamconv.catalog.catalog import default_catalog
from streamconv.checkpoint.types import TensorInfo
from streamconv.detection.expert_names import NamedTensors, find_modules
from streamconv.detection.refusals import Refusals

KNOWN = default_catalog().names_to_weights()
MODULE = "model.layers.7.mlp."


def find(*ends: str) -> tuple[dict[str, NamedTensors], dict[str, TensorInfo], Refusals]:
    """Return what is found among tensors with these ends of names."""
    names = [MODULE + end for end in ends]
    infos = [(name, TensorInfo(name, "BF16", (2,), "x", 0, 4)) for name in names]
    refusals = Refusals(collects=True)
    return *find_modules(infos, KNOWN, refusals), refusals


def test_numbers_of_experts() -> None:
    """Those that have been read before are looked up; the result is the same for all."""
    numbers = [3, 0, 12, 1]
    ends = [f"experts.{k}.{p}.weight" for p in ("up_proj", "down_proj") for k in numbers]
    modules, unknown, refusals = find(*ends, "experts.gate_up_proj", "experts.gate_up_projs.3")
    (found,) = modules.values()
    assert not unknown and not refusals.by_pattern()
    for projection in ("up_proj", "down_proj"):
        infos = found.tensors[f"experts.*.{projection}.weight"]
        assert {k: info.name for k, info in infos.items()} == {
            k: f"{MODULE}experts.{k}.{projection}.weight" for k in numbers
        }
    assert list(found.tensors["experts.gate_up_proj"]) == [None]
    assert list(found.tensors["experts.gate_up_projs.*"]) == [3]
    assert found.expert_numbers() == {0, 1, 3, 12}


def test_other_numbers_are_refused() -> None:
    """Also next to names that differ from theirs in the number alone."""
    for number in ("01", "00", "1234567890"):
        *_, refusals = find("experts.0.up_proj.weight", f"experts.{number}.up_proj.weight")
        assert list(refusals.by_pattern()) == ["model.layers.*.mlp."]


def test_unknown_names() -> None:
    """Below `experts.`, but not known, and never taken for an expert with a number."""
    ends = ("experts.0.up_proj.weight", "experts.x.up_proj.weight", "experts.0.up_proj.extra")
    modules, unknown, _ = find(*ends)
    assert list(unknown) == [MODULE + end for end in ends[1:]]
    assert list(modules[MODULE].tensors) == ["experts.*.up_proj.weight"]


def test_the_first_of_a_name() -> None:
    """The tensor without a number, else that of the smallest."""
    for ends, first in (
        (("experts.12.up_proj.weight", "experts.3.up_proj.weight"), 1),
        (("experts.2.up_proj.weight", "experts.0.up_proj.weight"), 1),
        (("experts.gate_up_proj",), 0),
    ):
        modules, *_ = find(*ends)
        (found,) = modules.values()
        (key,) = found.tensors
        assert found.first(key).name == MODULE + ends[first]
