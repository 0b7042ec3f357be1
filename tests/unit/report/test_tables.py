"""Tables show every fact at any width, and break text only where a reader expects it."""

import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from folders import INDEX, qwen_tensors, write_checkpoint
from hypothesis import given
from hypothesis import strategies as st
from published import cases, write_published
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType

import streamconv
from streamconv.planning.removal import Removal
from streamconv.report.catalog_report import families_table, layouts_table
from streamconv.report.checkpoint_tables import inspection_table
from streamconv.report.messages import loading_table
from streamconv.report.plan_tables import plan_table
from streamconv.report.tables import Column, Facts, Table, table_lines, wrap
from streamconv.verification.transformers_load import Loading

WIDTHS = (80, 100, 140)
CASES = (
    *("qwen3-30b-awq", "kimi-k2-thinking", "deepseek-v3.2", "deepseek-v4-flash", "gpt-oss-20b"),
    *("lora-qwen3-30b-per-expert", "qwen3-omni-captioner", "internvl3.5-30b-a3b", "dbrx"),
    *("nemotron-3-nano-omni", "idx-mtp-file-unlisted", "mistral-large-3-native-bf16"),
)


def printed(renderable: RenderableType, width: int) -> list[str]:
    """Return the lines that a terminal of this width shows."""
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def parts(renderable: RenderableType) -> Iterable[Table | Facts]:
    """Return the tables and facts that something printable consists of."""
    if isinstance(renderable, Group):
        for inner in renderable.renderables:
            yield from parts(inner)
    elif isinstance(renderable, Table | Facts):
        yield renderable


def assert_complete(renderable: RenderableType, width: int) -> None:
    """Every title, topic and cell is there, in its row, and no line is too long."""
    assert all(cell_len(line) <= width for line in printed(renderable, width))
    found = list(parts(renderable))
    assert found
    for part in found:
        lines = printed(part, width)
        if isinstance(part, Facts):
            rows: list[Sequence[str]] = list(part.rows)
        else:
            rows = [(part.title, *(column.title for column in part.columns)), *part.rows]
        text = "".join("".join(lines).split())
        for row in rows:
            for cell in row:
                assert all(word in text for word in cell.split()), (cell, width)


def assert_rows_complete(table: Table, width: int) -> None:
    """Each row, printed as the only one of the table, has all of its cells whole."""
    for row in table.rows:
        text = "\n".join(printed(Table(table.title, table.columns, [row]), width))
        for cell in row:
            if len(cell) < width - 8 and not any(c.wraps for c in table.columns):
                assert cell in text


@pytest.mark.parametrize("name", CASES)
def test_published_checkpoints(name: str, tmp_path: Path) -> None:
    """What `inspect` and --dry-run show of models of true size: quantized, adapters, unknown."""
    folder = write_published(cases()[name], tmp_path / name)
    found = streamconv.inspect(folder)
    plan = streamconv.plan(folder, to="same", pass_through=True, max_memory="64GB", copy=True)
    removals = [Removal(f"/data/{name}/{'long-name-' * 9}.safetensors", 10**9)]
    for width in WIDTHS:
        assert_complete(inspection_table(found.checkpoint, found.detected), width)
        for verbose in (False, True):
            table = plan_table(plan, 10**12, 10**9, removals, verbose=verbose)
            assert_complete(table, width)
            for part in parts(table):
                if isinstance(part, Table):
                    assert_rows_complete(part, width)


@pytest.mark.parametrize("width", WIDTHS)
def test_families_layouts_and_keys(width: int) -> None:
    assert_complete(families_table(), width)
    assert_complete(layouts_table(), width)
    assert_rows_complete(layouts_table(), width)
    keys = tuple(f"model.layers.{n}.mlp.experts.gate_up_proj_weight_scale_inv" for n in range(30))
    loading = Loading("Qwen3MoeForCausalLM", 9, keys, keys, ((keys[0], (2, 3), (4, 5)),), ())
    assert_complete(loading_table("/data/" + "deep/" * 30, loading), width)


def test_of_many_contradictions_and_refusals_the_first_are_shown(tmp_path: Path) -> None:
    """A spoiled index has thousands, and experts that are all incomplete as many."""
    tensors = {
        name: value
        for part in range(30)
        for name, value in qwen_tensors(prefix=f"part{part}x.", layers=1).items()
        if "experts.1.up_proj" not in name
    }
    write_checkpoint(tmp_path / "it", {"a.safetensors": tensors}, {"model_type": "novel"})
    path = tmp_path / "it" / INDEX
    index = json.loads(path.read_text())
    index["weight_map"] |= {f"stale.{number}": "a.safetensors" for number in range(30)}
    path.write_text(json.dumps(index))
    found = streamconv.inspect(tmp_path / "it")
    lines = printed(inspection_table(found.checkpoint, found.detected), 160)
    assert len(found.checkpoint.contradictions) == len(found.detected.refusals) == 30
    for topic in ("contradiction ", "cannot convert "):
        assert sum(line.startswith(topic) for line in lines) == 20
    assert sum("... 10 more (--json shows them)" in line for line in lines) == 2


def test_all_columns_if_there_is_room() -> None:
    """One line for each row, and a mark for nothing."""
    table = layouts_table()
    lines = printed(table, 200)
    assert len(lines) == 2 + len(table.rows)


def test_columns_leave_by_rank() -> None:
    """The highest first; what has left is below its row, with its title."""
    columns = (Column("name"), Column("a", rank=2), Column("b", rank=1), Column("size"))
    table = Table(
        "things", columns, [("n" * 20, "a" * 20, "b" * 20, "1 GB"), ("n", "", "b", "2 GB")]
    )
    shown = {width: [str(line) for line in table_lines(table, width)] for width in (90, 60, 40, 22)}
    assert shown[90][2].split() == ["n" * 20, "a" * 20, "b" * 20, "1", "GB"]
    assert shown[60][2:4] == [f" {'n' * 20}  {'b' * 20}  1 GB", f"    a: {'a' * 20}"]
    assert shown[60][4].split() == ["n", "b", "2", "GB"]
    assert len(shown[60]) == 5, "an empty cell takes no line"
    assert shown[40][3:5] == [f"    a: {'a' * 20}", f"    b: {'b' * 20}"]
    assert shown[22][2] == f" {'n' * 20}"


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("one two three", ["one two", "three"]),
        ("", [""]),
        ("a model.layers.experts", ["a", "model.", "layers.", "experts"]),
        ("abcdefghijkl", ["abcdefgh", "ijkl"]),
        ("模型模型模型", ["模型模型", "模型"]),
    ],
)
def test_wrapping(text: str, lines: list[str]) -> None:
    """After words; a word that is too long after a dot, and only else where the line ends."""
    assert wrap(text, 8) == lines


CELLS = st.text(st.characters(codec="utf-8", categories=("L", "N", "P")), max_size=70)


@given(
    st.lists(st.tuples(CELLS, CELLS, CELLS, CELLS), max_size=4),
    st.lists(st.integers(0, 3), min_size=4, max_size=4),
    st.lists(st.booleans(), min_size=4, max_size=4),
    st.integers(20, 200),
)
def test_any_table(
    rows: list[tuple[str, ...]], ranks: list[int], wraps: list[bool], width: int
) -> None:
    columns = [
        Column(f"c{n}", rank=rank, wraps=wrap, is_number=n % 2 == 1)
        for n, (rank, wrap) in enumerate(zip(ranks, wraps, strict=True))
    ]
    lines = [str(line) for line in table_lines(Table("t", columns, rows), width)]
    assert all(cell_len(line) <= width for line in lines)
    letters = sorted("".join(cell for row in rows for cell in row if cell))
    shown = "".join("".join(lines[2:]).split())
    for letter in set(letters):
        assert shown.count(letter) >= letters.count(letter)
