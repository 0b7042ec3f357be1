"""The public functions that convert: what each passes on, and what it returns."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from folders import output, qwen_tensors, read_checkpoint, tree, two_shards, write_checkpoint

import streamconv
from streamconv.cli import cli
from streamconv.errors import OutputExists, PlanRefused, UsageError
from streamconv.options import LazyOptions
from streamconv.planning import limits

GATE_UP = "model.layers.0.mlp.experts.gate_up_proj"


@pytest.fixture
def src(tmp_path: Path) -> Path:
    config = {"model_type": "qwen3_moe", "num_experts": 3}
    return write_checkpoint(tmp_path / "src", two_shards(qwen_tensors()), config)


def by_formula(tensors: dict[str, tuple[str, tuple[int, ...], bytes]]) -> bytes:
    """Gate and up of layer 0, expert by expert, as their rows follow each other when fused."""
    names = ("gate_proj", "up_proj")
    module = "model.layers.0.mlp.experts"
    return b"".join(tensors[f"{module}.{e}.{n}.weight"][2] for e in range(3) for n in names)


def test_merge_and_split(src: Path, tmp_path: Path) -> None:
    """The bytes of the formula, and back to the bytes of the source."""
    result = streamconv.merge(src, tmp_path / "merged")
    assert (result.path, result.closed, result.verification) == (tmp_path / "merged", True, None)
    assert read_checkpoint(result.path)[GATE_UP] == (
        "BF16",
        (3, 12, 4),
        by_formula(read_checkpoint(src)),
    )
    again = streamconv.split(result.path, tmp_path / "again")
    assert read_checkpoint(again.path) == read_checkpoint(src)


def test_convert_keeps_layouts_unless_told(src: Path, tmp_path: Path) -> None:
    """`to` is `same`, and a conversion that changes nothing is refused."""
    with pytest.raises(PlanRefused, match="nothing to convert"):
        streamconv.convert(src, tmp_path / "dst")
    streamconv.convert(src, tmp_path / "dst", dtype="fp32")
    made = read_checkpoint(tmp_path / "dst")
    assert made.keys() == read_checkpoint(src).keys()
    assert {dtype for dtype, _, _ in made.values()} == {"F32", "BF16"}  # routers and norms stay


def test_a_plan_is_that_of_the_run(src: Path, tmp_path: Path) -> None:
    """`plan` without a target is what `merge` does; nothing is written."""
    before = tree(tmp_path)
    planned = streamconv.plan(src)
    assert tree(tmp_path) == before
    result = streamconv.merge(src, tmp_path / "dst")
    assert planned.data_bytes == result.plan.data_bytes
    assert planned.record == result.plan.record
    assert [s.name for s in planned.shards] == [s.name for s in result.plan.shards]
    assert {*read_checkpoint(tmp_path / "dst")} == {step.name for step in planned.steps}


@pytest.mark.parametrize("convert", [streamconv.merge, streamconv.convert, streamconv.split])
def test_options_of_a_run(convert: object, src: Path, tmp_path: Path) -> None:
    """`overwrite`, `resume`, `verify` and `on_event` reach the run, as do options of all kinds."""
    assert callable(convert)
    if convert is streamconv.split:
        src = streamconv.merge(src, tmp_path / "merged").path
    to = {} if convert in (streamconv.merge, streamconv.split) else {"to": "fused"}
    events: list[object] = []
    dst = tmp_path / "dst"
    result = convert(src, dst, verify=True, jobs=1, on_event=events.append, **to)
    assert result.verification is not None
    assert result.verification.ok
    kinds = [type(event) for event in events]
    assert (kinds[0], kinds[-1]) == (streamconv.Planned, streamconv.Committed)
    assert {streamconv.Prepared, streamconv.PieceWritten, streamconv.VerifyStarted} < {*kinds}
    with pytest.raises(OutputExists):
        convert(src, dst, **to)
    made = output(dst)
    convert(src, dst, overwrite=True, resume=True, **to)
    assert output(dst) == made


def test_finish(src: Path, tmp_path: Path) -> None:
    """Commits parts, with the events of the rest."""
    dst = tmp_path / "dst"
    parts = [
        streamconv.merge(src, dst, part=f"{number}/2", max_shard_size=300) for number in (1, 2)
    ]
    assert [part.closed for part in parts] == [False, False]
    events: list[object] = []
    assert streamconv.finish(dst, verify=True, on_event=events.append).closed
    assert isinstance(events[-1], streamconv.Committed)
    whole = streamconv.merge(src, tmp_path / "whole", max_shard_size=300)
    assert tree(dst) == tree(whole.path)


def test_an_error_of_on_event_ends_the_run(src: Path, tmp_path: Path) -> None:
    """As the program that passed it expects."""

    def stop(event: object) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        streamconv.merge(src, tmp_path / "dst", on_event=stop)
    assert not (tmp_path / "dst").exists()


def test_options_that_contradict_each_other(src: Path, tmp_path: Path) -> None:
    """A part cannot be verified alone."""
    with pytest.raises(UsageError, match="cannot verify a part"):
        streamconv.merge(src, tmp_path / "dst", part="1/2", verify=True)


WITHOUT_SENSE: list[dict[str, object]] = [
    *({name: 0} for name in ("jobs", "max_memory", "max_rate", "max_shard_size")),
    *({name: "much"} for name in ("max_memory", "max_rate", "max_shard_size", "part", "layers")),
    *({"part": "3/2"}, {"hf_prefix": "model."}, {"dcp_prefix": "ckpt."}),
]


@pytest.mark.parametrize(
    ("function", "option"),
    [
        *((name, option) for name in ("plan", "merge") for option in WITHOUT_SENSE),
        *(
            ("open", each)
            for each in WITHOUT_SENSE
            if each.keys() <= {*LazyOptions.__annotations__}
        ),
    ],
    ids=str,
)
def test_an_option_without_sense_is_refused_by_all(
    function: str, option: dict[str, object], src: Path, tmp_path: Path
) -> None:
    """By a plan, too, though only its run would use some of them; 0 is no default."""
    before = tree(tmp_path)
    words = (src, tmp_path / "dst") if function == "merge" else (src,)
    with pytest.raises(UsageError, match=r"^cannot (start|read|use) "):
        getattr(streamconv, function)(*words, **option)
    assert tree(tmp_path) == before


def test_a_plan_leaves_the_memory_of_its_caller(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run gives back what the headers have left, and so does its dry run on the command line."""
    calls: list[bool] = []
    monkeypatch.setattr(limits, "return_freed_memory", lambda: calls.append(True))
    streamconv.plan(src, to="fused")
    assert calls == []
    words = [str(src), str(tmp_path / "out"), "--to", "fused", "-q"]
    done = CliRunner().invoke(cli, ["convert", *words, "--dry-run"])
    assert (done.exit_code, calls) == (0, [True]), done.output
    streamconv.convert(src, tmp_path / "out", to="fused")
    assert calls == [True, True]
