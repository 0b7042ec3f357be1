"""The bytes of conversions, compared with transformers, formulas and the original."""

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import checkpoints
import pytest
import reference
from folders import forget, tree
from pairs import pairwise
from safetensors.torch import save_file

import streamconv
from streamconv.system.resources import peak_bytes

SOURCES: dict[str, Callable[[Path], Path]] = {
    **checkpoints.BUILDERS,
    "qwen3_moe, H = I": lambda folder: checkpoints.qwen3_moe(folder, hidden=32, intermediate=32),
    "qwen3_moe, H = 2I": lambda folder: checkpoints.qwen3_moe(folder, hidden=32, intermediate=16),
    "glm4v_moe, H = I": lambda folder: checkpoints.glm4v_moe(folder, hidden=32, intermediate=32),
    "qwen3_omni_moe, H = 2I": lambda folder: checkpoints.qwen3_omni_moe(
        folder, hidden=32, intermediate=16
    ),
}
LOOKALIKES = ("fused-transposed", "fused-interleaved")
"""Layouts that have the same names and shapes, so that only a record tells them apart."""
FORMS = ("hub", "transformers", "mindspeed")
TARGETS = (*reference.LAYOUTS, *FORMS)
MINDSPEED = ("internvl_chat", "glm4v_moe", "qwen3_omni_moe")
TRANSFORMERS = ("qwen3_moe", "mixtral", "glm4v_moe", "qwen3_omni_moe")


@pytest.fixture(scope="session", params=SOURCES)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as its model family is published."""
    return SOURCES[request.param](tmp_path_factory.mktemp("source") / "checkpoint")


@pytest.fixture(scope="session")
def original(source: Path) -> reference.Tensors:
    """Its tensors, by safetensors' own reader."""
    return reference.read(source)


def model_type(folder: Path) -> str:
    return str(json.loads((folder / "config.json").read_text())["model_type"])


def has_form(model_type: str, target: str) -> bool:
    families = {"transformers": TRANSFORMERS, "mindspeed": MINDSPEED}
    return model_type in families.get(target, (model_type,))


SECONDS = pairwise(
    [*SOURCES],
    TARGETS,
    TARGETS,
    exists=lambda name, *targets: all(has_form(name.split(",")[0], to) for to in targets),
)
"""Sources, and two targets one after the other."""


def expected(folder: Path, original: reference.Tensors, target: str) -> reference.Tensors:
    """The expected tensors of `target`, from transformers or from formulas."""
    if target == "hub":
        return original
    if target == "mindspeed":
        return reference.merge_mindspeed(original, model_type(folder))
    if target == "transformers":
        return checkpoints.in_memory(folder)
    return reference.to_layout(original, target)


@pytest.mark.parametrize("target", TARGETS)
def test_a_conversion_makes_what_the_formulas_say(
    source: Path, original: reference.Tensors, target: str, tmp_path: Path
) -> None:
    """Every form and layout, from the hub's files, in several shards."""
    if not has_form(model_type(source), target):
        with pytest.raises(streamconv.PlanRefused, match=f"has no form '{target}'"):
            streamconv.convert(source, tmp_path / "out", to=target)
        return
    before = tree(source)
    streamconv.convert(source, tmp_path / "out", to=target, max_shard_size="40KB", copy=True)
    out = reference.read(tmp_path / "out")
    assert reference.same_bytes(expected(source, original, target), out) == []
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 2
    assert tree(source) == before


def test_merge_and_split_without_options(
    source: Path, original: reference.Tensors, tmp_path: Path
) -> None:
    """`merge` makes the training framework's form, `split` gives back every name and byte."""
    streamconv.merge(source, tmp_path / "merged")
    form = "mindspeed" if has_form(model_type(source), "mindspeed") else "transformers"
    merged = reference.read(tmp_path / "merged")
    assert reference.same_bytes(expected(source, original, form), merged) == []
    streamconv.split(tmp_path / "merged", tmp_path / "split")
    assert reference.same_bytes(original, reference.read(tmp_path / "split")) == []


def test_split_of_what_another_tool_merged(
    source: Path, original: reference.Tensors, tmp_path: Path
) -> None:
    """A merged checkpoint without any record comes back as it was, `thinker.` included."""
    form = "mindspeed" if has_form(model_type(source), "mindspeed") else "transformers"
    merged = tmp_path / "merged"
    merged.mkdir()
    save_file(expected(source, original, form), merged / "model.safetensors")
    (merged / "config.json").write_bytes((source / "config.json").read_bytes())
    streamconv.split(merged, tmp_path / "split")
    assert reference.same_bytes(original, reference.read(tmp_path / "split")) == []


@pytest.mark.parametrize("first", TARGETS)
def test_any_two_conversions_and_back(
    source: Path,
    original: reference.Tensors,
    first: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """From any form to any other and back to the hub: the same bytes; without records the same
    bytes or a refusal, never other bytes."""
    name = request.node.callspec.params["source"]
    seconds = [
        second for source_name, one, second in SECONDS if (source_name, one) == (name, first)
    ]
    assert bool(seconds) == has_form(model_type(source), first)
    if not seconds:
        return
    streamconv.convert(source, tmp_path / "first", to=first, copy=True)
    refusals = 0
    for second in seconds:
        out, back, guess = (tmp_path / f"{second}-{name}" for name in ("out", "back", "guess"))
        try:
            streamconv.convert(tmp_path / "first", out, to=second, copy=True)
        except streamconv.PlanRefused as refusal:
            assert "could not be distinguished" in refusal.message
            refusals += 1
            continue
        streamconv.convert(out, back, to="hub", copy=True)
        assert reference.same_bytes(original, reference.read(back)) == [], second
        forget(out)
        try:
            streamconv.split(out, guess, copy=True)
        except streamconv.PlanRefused as refusal:
            assert "--from" in refusal.hint
            given = next(name for name in (second, first) if name in LOOKALIKES)
            streamconv.split(out, guess, source_layout=given, copy=True)
        assert reference.same_bytes(original, reference.read(guess)) == [], second
    assert refusals <= 2


@pytest.mark.parametrize("layout", reference.LAYOUTS)
def test_merge_with_a_layout_takes_every_stack(
    source: Path, original: reference.Tensors, layout: str, tmp_path: Path
) -> None:
    """`merge --to L` is `convert --to L`."""
    streamconv.merge(source, tmp_path / "out", to=layout, copy=True)
    want = reference.to_layout(original, layout)
    assert reference.same_bytes(want, reference.read(tmp_path / "out")) == []


def test_the_same_bytes_whatever_the_jobs_and_memory(source: Path, tmp_path: Path) -> None:
    """The output tree, manifest included, depends on neither workers nor buffers."""
    trees = []
    little = peak_bytes() + 30_000_000
    for jobs, memory in itertools.product((1, 2, 5), (None, little)):
        out = tmp_path / f"{jobs}-{memory}"
        streamconv.merge(source, out, jobs=jobs, max_memory=memory, max_shard_size="70KB")
        trees.append(tree(out))
    assert all(other == trees[0] for other in trees)


def test_other_files_are_copied(source: Path, tmp_path: Path) -> None:
    """Everything but weights and their index is copied byte for byte, subfolders too."""
    out = tmp_path / "out"
    streamconv.merge(source, out)
    other = {p.relative_to(source) for p in source.rglob("*") if p.is_file()}
    other = {p for p in other if p.suffix != ".safetensors" and p.name != checkpoints.INDEX}
    assert Path("config.json") in other
    assert any(len(path.parts) > 1 for path in other)
    for path in other:
        assert (out / path).read_bytes() == (source / path).read_bytes(), path
    extra = {p.relative_to(out) for p in out.rglob("*") if p.is_file()} - other
    assert extra == {Path("model.safetensors"), Path("streamconv.json")}


def test_remote_code_is_copied_and_never_run(tmp_path: Path) -> None:
    """A checkpoint's own Python files are data."""
    source = checkpoints.internvl_chat(tmp_path / "source")
    streamconv.merge(source, tmp_path / "out")
    streamconv.split(tmp_path / "out", tmp_path / "back")
    assert (tmp_path / "back" / "modeling_internvl_chat.py").exists()
    assert not list(tmp_path.rglob(checkpoints.REMOTE_CODE_RAN))


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_loads_its_form(name: str, tmp_path: Path) -> None:
    """transformers finds every tensor of `--to transformers`, and no other ones."""
    source = checkpoints.BUILDERS[name](tmp_path / "source")
    streamconv.convert(source, tmp_path / "out", to="transformers", max_shard_size="60KB")
    wanted, loaded = checkpoints.in_memory(source), checkpoints.in_memory(tmp_path / "out")
    assert reference.same_bytes(wanted, loaded) == []


def test_index_and_metadata_of_the_output(source: Path, tmp_path: Path) -> None:
    """Index and shard metadata are what the hub's readers expect."""
    out = tmp_path / "out"
    streamconv.merge(source, out, max_shard_size="60KB")
    index = json.loads((out / checkpoints.INDEX).read_text())
    tensors = reference.read(out)
    total = sum(tensor.nbytes for tensor in tensors.values())
    assert index["metadata"]["total_size"] == total
    assert set(index["weight_map"]) == set(tensors)
    files = sorted(set(index["weight_map"].values()))
    assert files == [
        f"model-{k:05d}-of-{len(files):05d}.safetensors" for k in range(1, len(files) + 1)
    ]
    for file in files:
        raw = (out / file).read_bytes()
        metadata = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]
        assert metadata["format"] == "pt"
        record = json.loads(metadata["streamconv"])
        assert record["form"] in FORMS
        assert record["stacks"]


@pytest.fixture
def two_layers(tmp_path: Path) -> Iterator[Path]:
    yield checkpoints.qwen3_moe(tmp_path / "source", layers=3)


def test_only_some_layers(two_layers: Path, tmp_path: Path) -> None:
    """`--layers 0:2` keeps these layers and what is in none, and the manifest says so."""
    out = tmp_path / "out"
    streamconv.merge(two_layers, out, layers="0:2")
    whole = expected(two_layers, reference.read(two_layers), "transformers")
    want = {name: tensor for name, tensor in whole.items() if "layers.2." not in name}
    assert reference.same_bytes(want, reference.read(out)) == []
    assert json.loads((out / "streamconv.json").read_text())["record"]["layers"] == "0:2"


def test_the_plan_reads_no_tensor(two_layers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan is made from headers and JSON: not one byte of data is asked for."""
    from streamconv.system.linux_file_ops import LinuxFiles

    headers = {
        8 + int.from_bytes(path.read_bytes()[:8], "little")
        for path in two_layers.glob("*.safetensors")
    }
    read = LinuxFiles.read_into
    ends = []

    def watched(self: LinuxFiles, fd: int, buffer: memoryview, offset: int) -> int:
        ends.append(offset + len(buffer))
        return read(self, fd, buffer, offset)

    monkeypatch.setattr(LinuxFiles, "read_into", watched)
    streamconv.plan(two_layers)
    assert ends
    assert set(ends) <= headers | {8}
