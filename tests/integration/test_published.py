"""Checkpoints that people really have: each is shown, and converted or refused for its true reason.

The headers have their true size, and the data are holes. What a plan has to be follows from the
patterns of the names, by formulas that know nothing of the package. Those with plain experts are
cut down to a few random bytes, too, and converted: these have to be those of a formula.
"""

import io
import json
import math
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from folders import Tensors, read_checkpoint, tensor, write_checkpoint
from published import Shapes, cases, listed_tensors, possible_names, shrunk, write_published

import streamconv
from streamconv.cli.inspect import command as inspect_command
from streamconv.detection.kinds import kinds_of
from streamconv.errors import StreamconvError
from streamconv.planning.plan import Plan

CASES = cases()
EVERY = pytest.mark.parametrize("name", CASES)
EXPERT = re.compile(r"(?P<module>.*\.experts\.)(?P<expert>\d+)\.(?P<weight>\w+)\.weight(_\w+)?")
SCALE = re.compile(r"(?P<weight>.*\.experts\.(gate_up|down)_proj)_\w*scale\w*")
GATED = (("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2"))
NAME = re.compile(r"[\w*]+(?:\.[\w*]+){2,}")
"""What may be the name of a tensor in a message."""
FILES = (".json", ".safetensors", ".toml", ".py")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("published")
    return {name: write_published(case, base / name) for name, case in CASES.items()}


def pattern(name: str) -> str:
    return re.sub(r"(?<![^.])(\d+|\*)(?![^.])", "*", name)


def unknown_names(text: str, name: str, folder: Path) -> set[str]:
    """The names in a message that are no part of a name of the source, its index or its config.

    Scales are an exception that are said to be missing.
    """
    text = re.sub(r"its scales \S+ are missing", "", text)
    known = {f".{pattern(each)}." for each in possible_names(CASES[name])}
    found = set(NAME.findall(text.replace(str(folder), "")))
    return {
        each
        for each in found
        if not each.endswith(FILES) and not any(f".{pattern(each)}" in one for one in known)
    }


# --- shown -------------------------------------------------------------------------------------


@EVERY
def test_it_is_shown(name: str, folders: dict[str, Path]) -> None:
    """Every tensor, whatever it is; and no message names what is not there."""
    stdout = io.StringIO()
    with redirect_stdout(stdout):
        inspect_command.main([str(folders[name]), "--json"], standalone_mode=False)
    shown = json.loads(stdout.getvalue())
    counted = sum(kind["tensors"] for kind in shown["tensor_kinds"])
    assert counted == len(listed_tensors(CASES[name]))
    said = [*shown["notes"], *(r["why"] for r in shown["refusals"]), *shown["contradictions"]]
    assert unknown_names(" ".join(said), name, folders[name]) == set()
    for refusal in shown["refusals"]:
        assert refusal["hint"]


# --- converted or refused ----------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("verb", ["merge", "split"])
def test_its_verdict(name: str, verb: str, folders: dict[str, Path]) -> None:
    case, folder = CASES[name], folders[name]
    expected, to = case[verb], None if verb == "merge" else "per-expert"
    if not expected.startswith("refused"):
        plan = streamconv.plan(folder, to=to)
        assert plan.target.asked == expected
        check_plan(plan, listed_tensors(case), is_split=verb == "split")
        return
    with pytest.raises(StreamconvError) as caught:
        streamconv.plan(folder, to=to)
    assert expected.partition(": ")[2] in caught.value.message
    assert caught.value.hint
    assert unknown_names(caught.value.message, name, folder) == set()


@pytest.mark.parametrize(
    "name",
    [n for n, c in CASES.items() if "no layout" in c["merge"] or "one list of" in c["merge"]],
)
def test_the_way_on_leads_on(name: str, folders: dict[str, Path]) -> None:
    """What is refused for its experts is passed through whole."""
    plan = streamconv.plan(folders[name], pass_through=True, copy=True)
    written = {s.name: (s.dtype, s.shape) for shard in plan.shards for s in shard.steps}
    assert sorted(written.values()) == sorted(listed_tensors(CASES[name]).values())


@pytest.mark.parametrize("name", ["peft-base-layer", "deepspeed-moe"])
def test_wrappers_are_left_out_of_names(name: str, folders: dict[str, Path]) -> None:
    renames = {
        "peft-base-layer": ["base_model.model.=", "base_layer.="],
        "deepspeed-moe": ["deepspeed_moe.=", "deepspeed_experts.="],
    }
    to = {"peft-base-layer": "per-expert", "deepspeed-moe": "fused"}
    found = streamconv.inspect(folders[name])
    assert "--rename" in " ".join(kind.says for kind in kinds_of(found.checkpoint))
    plan = streamconv.plan(folders[name], to=to[name], rename=renames[name])
    assert [stack.pattern for stack in plan.source.stacks] == ["model.layers.*.mlp."]


LLAMA_MOE = """
[families.llama-moe]
model_types = ["llama_moe"]
naming = "weights"
merge = "fused"
stacks = { "model.layers.*.mlp.calculator." = "" }
hub.layouts = { "*" = "projection-lists" }
[namings.weights]
auto_detect = false
p = ["weight_gate", "weight_up"]
d = ["weight_down"]
"""


def test_a_family_file_describes_the_names(folders: dict[str, Path], tmp_path: Path) -> None:
    """The other way on: LLaMA-MoE has a list of matrices for each projection."""
    (tmp_path / "llama.toml").write_text(LLAMA_MOE)
    plan = streamconv.plan(folders["llama-moe-3.5b"], family=tmp_path / "llama.toml")
    assert [stack.sizes["e"] for stack in plan.source.stacks] == [8]
    check_plan(plan, listed_tensors(CASES["llama-moe-3.5b"]), is_split=False)


def check_plan(plan: Plan, source: Shapes, *, is_split: bool) -> None:
    """Compare a plan with its source: bytes, other tensors, and the shapes of experts."""
    written = {s.name: (s.dtype, s.shape) for shard in plan.shards for s in shard.steps}
    before = sum(info.nbytes for info in plan.checkpoint.tensors.values())
    assert plan.data_bytes == before + (copied_bytes(source) if is_split else 0)
    assert {*plan.checkpoint.tensors} == {*source}
    found = [EXPERT.fullmatch(name) for name in (written if is_split else source)]
    by_module: dict[str, set[str]] = {}
    for match in filter(None, found):
        by_module.setdefault(match["module"], set()).add(match["expert"])
    assert by_module or not is_split
    for experts in by_module.values():
        assert experts == {str(number) for number in range(len(experts))}
    if not is_split:
        assert not any(EXPERT.fullmatch(name) for name in written)


def copied_bytes(source: Shapes) -> int:
    """Return the bytes of the copies that experts get of scales which several of them share."""
    copied = 0
    for name, (dtype, shape) in source.items():
        match = SCALE.fullmatch(name)
        if match is not None and match["weight"] in source:
            experts = source[match["weight"]][1][0]
            wanted = experts * (2 if match["weight"].endswith("gate_up_proj") else 1)
            if math.prod(shape) in (1, experts):
                copied += (wanted - math.prod(shape)) * {"BF16": 2, "F32": 4}[dtype]
    return copied


# --- bytes -------------------------------------------------------------------------------------


def plain_experts(name: str) -> bool:
    """Return True if all experts are tensors of BF16, one for each projection."""
    if CASES[name]["merge"].startswith("refused"):
        return False
    listed = listed_tensors(CASES[name])
    tensors = [n for n in listed if ".experts." in n]
    words = {m["weight"] for m in map(EXPERT.fullmatch, tensors) if m}
    return (
        all(map(EXPERT.fullmatch, tensors))
        and {listed[n][0] for n in tensors} == {"BF16"}
        and any(words == {*names} for names in GATED)
    )


@pytest.mark.parametrize("name", [name for name in CASES if plain_experts(name)])
def test_its_bytes(name: str, tmp_path: Path) -> None:
    """Cut down: gate rows above up rows, for every expert in turn; and back again."""
    shapes, config = shrunk(CASES[name])
    tensors: Tensors = {n: tensor(n, dtype, *shape) for n, (dtype, shape) in shapes.items()}
    src = write_checkpoint(tmp_path / "src", {"model.safetensors": tensors}, config)
    streamconv.convert(src, tmp_path / "dst", to="fused", verify=True)
    assert read_checkpoint(tmp_path / "dst") == fused(tensors)
    streamconv.split(tmp_path / "dst", tmp_path / "back")
    assert read_checkpoint(tmp_path / "back") == tensors


def fused(tensors: Tensors) -> Tensors:
    """The tensors with all experts of a layer in two of them."""
    made: Tensors = {}
    experts: dict[str, dict[tuple[str, int], bytes]] = {}
    shapes: dict[tuple[str, str], tuple[int, ...]] = {}
    for name, (_, shape, data) in tensors.items():
        match = EXPERT.fullmatch(name)
        if match is None:
            made[name] = tensors[name]
            continue
        experts.setdefault(match["module"], {})[match["weight"], int(match["expert"])] = data
        shapes[match["module"], match["weight"]] = shape
    for module, found in experts.items():
        gate, up, down = next(n for n in GATED if {w for w, _ in found} == {*n})
        count = 1 + max(number for _, number in found)
        rows, columns = shapes[module, gate]
        both = b"".join(found[word, e] for e in range(count) for word in (gate, up))
        made[f"{module}gate_up_proj"] = ("BF16", (count, 2 * rows, columns), both)
        downs = b"".join(found[down, e] for e in range(count))
        made[f"{module}down_proj"] = ("BF16", (count, *shapes[module, down]), downs)
    return made
