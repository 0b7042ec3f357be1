"""The journal: torn lines, and the shards that count as finished."""

import io
import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from folders import qwen_tensors, two_shards, write_checkpoint
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_hexdigest

import streamconv
from streamconv.planning.manifest import plan_facts, shorten_facts
from streamconv.sinks.journal import (
    Finished,
    Journal,
    difference,
    finished_line,
    finished_shards,
    opening_line,
    read_journal,
)

SHARD = 200
"""Bytes of a shard."""
HEX = "0f" * 16
"""A digest."""
PATTERN = "model.layers.*.mlp."


@pytest.fixture
def src(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "src", two_shards(qwen_tensors(experts=2)))


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_torn_line_counts_as_not_written(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Cut anywhere, or a byte of it changed: the lines before it count, those after it do not."""
    base = tmp_path_factory.mktemp("torn")
    src = write_checkpoint(base / "src", two_shards(qwen_tensors(experts=2)))
    plan = streamconv.plan(src, max_shard_size=SHARD)
    lines = [opening_line(plan)]
    for number, shard in enumerate(plan.shards):
        rows = tuple(f"{piece.nbytes} {'0' * 32}" for piece in plan.pieces([number]))
        lines.append(finished_line(shard.name, Finished(shard.nbytes, rows)))
    raw = b"".join(lines)
    at = data.draw(st.integers(0, len(raw) - 1))
    if data.draw(st.booleans()):
        raw = raw[:at]
    else:
        changed = raw[at] ^ data.draw(st.integers(1, 255))
        assume(changed not in b"\t\r")  # in place of a blank, JSON says the same
        raw = raw[:at] + bytes([changed]) + raw[at + 1 :]
    whole = 0
    while whole < len(lines) and sum(map(len, lines[: whole + 1])) <= at:
        whole += 1
    journal = read(raw)
    if whole == 0:
        assert journal is None
    else:
        assert journal is not None
        assert sorted(finished_shards(plan, [journal])) == list(range(whole - 1))


def read(raw: bytes) -> Journal | None:
    return read_journal(io.BytesIO(raw))


def test_pieces_of_other_sizes_are_not_taken_over(src: Path) -> None:
    """A version that cuts otherwise makes the shard again."""
    plan = streamconv.plan(src, max_shard_size=SHARD)
    name, size = plan.shards[0].name, plan.shards[0].nbytes
    for rows, found in (
        ((f"{size} {HEX}",), {0}),
        ((f"{size - 1} {HEX}", f"1 {HEX}"), set()),
        ((), set()),
    ):
        raw = opening_line(plan) + finished_line(name, Finished(size, rows))
        journal = read(raw)
        assert journal is not None
        assert set(finished_shards(plan, [journal])) == found


def test_a_line_is_a_checksum_and_its_body() -> None:
    """As earlier versions wrote it: keys sorted, XXH3-64 of the body's text."""
    body = '{"pieces": ["6 aa", "4 bb"], "shard": "a", "size": 10}'
    line = finished_line("a", Finished(10, ("6 aa", "4 bb")))
    assert line == f'["{xxh3_64_hexdigest(body.encode())}", {body}]\n'.encode()


def test_the_first_line_has_to_be_the_facts(src: Path) -> None:
    """Without them nobody knows which conversion the shards belong to."""
    assert read(finished_line("a", Finished(1, ()))) is None
    assert read(b"") is None
    opening = opening_line(streamconv.plan(src, max_shard_size=SHARD))
    assert read(opening[:-1]) is None
    journal = read(opening)
    assert journal is not None
    assert journal.finished == {}
    assert journal.facts == json.loads(opening)[1]["facts"]


def test_the_first_difference_is_shown_with_both_facts(src: Path) -> None:
    """The innermost one; none if it is the same conversion."""
    plan = streamconv.plan(src, max_shard_size=SHARD)
    journal = read(opening_line(plan))
    assert journal is not None
    assert difference(plan, journal) == ""
    other = streamconv.plan(src, max_shard_size=300)
    assert difference(other, journal) == "shard size: 200 there, 300 here"
    target = streamconv.plan(src, max_shard_size=SHARD, to="stacked")
    found = difference(target, journal)
    assert found == f'target: stacks: {PATTERN}: layout: "fused" there, "stacked" here'


def test_the_first_line_is_short(src: Path) -> None:
    """It names layouts and counts casts: their templates and tensors are a digest each."""
    experts = qwen_tensors(experts=200)
    many = write_checkpoint(src.parent / "many", {"model.safetensors": experts})
    few, all_of_them = (
        len(opening_line(streamconv.plan(each, dtype="fp32"))) for each in (src, many)
    )
    assert few < 1500
    assert all_of_them < few + 100


@pytest.mark.parametrize("cast", [{}, {"dtype": "fp32"}], ids=["stored", "cast"])
def test_a_journal_with_all_facts_is_read(src: Path, cast: dict[str, Any]) -> None:
    """As it was written before lines were short: the same conversion, or what differs."""
    plan = streamconv.plan(src, max_shard_size=SHARD, **cast)
    whole = signed(json.dumps({"facts": plan_facts(plan)}, default=dict))
    assert len(whole) > 5000
    journal = read(whole)
    assert journal is not None
    assert difference(plan, journal) == ""
    stacked = streamconv.plan(src, max_shard_size=SHARD, to="stacked", **cast)
    assert 'layout: "fused" there, "stacked" here' in difference(stacked, journal)
    other = streamconv.plan(src, max_shard_size=SHARD, dtype="fp16")
    assert difference(other, journal).startswith("casts: ")


def test_another_naming_or_template_is_another_conversion(src: Path) -> None:
    """A layout of the user's may change under its name, in any of its lines."""
    plan = streamconv.plan(src, max_shard_size=SHARD)
    facts = plan_facts(plan)
    stack = f"{PATTERN}experts"
    for side in ("source layouts", "target layouts"):
        for part in ("templates", "naming"):
            for key in facts[side][stack][part]:
                changed = json.loads(json.dumps(facts))
                changed[side][stack][part][key][0] += "x"
                for written in (changed, shorten_facts(changed)):
                    journal = read(signed(json.dumps({"facts": written})))
                    assert journal is not None
                    assert difference(plan, journal).startswith(f"{side}: {stack}: templates: ")


def test_a_layout_may_get_templates_for_weights_that_are_not_there(src: Path) -> None:
    """Of biases, scales, or in a file of the user; a journal of before has all templates."""
    plan = streamconv.plan(src, max_shard_size=SHARD)
    stack = plan.source.stacks[0]
    templates = dict(stack.row.layout.templates)
    for lacking, resumes in (("down_bias", True), ("down", False)):
        fewer = {w: t for w, t in templates.items() if w != lacking}
        row = replace(stack.row, layout=replace(stack.row.layout, templates=fewer))
        stacks = (replace(stack, row=row),)
        earlier = replace(plan, source=replace(plan.source, stacks=stacks))
        journal = read(opening_line(earlier))
        assert journal is not None
        assert (difference(plan, journal) == "") == resumes
    whole = read(signed(json.dumps({"facts": shorten_facts(plan_facts(plan))})))
    assert whole is not None
    assert difference(plan, whole) == ""


def signed(text: str) -> bytes:
    """A line whose digest is right, whatever the text is."""
    with suppress(ValueError, RecursionError):
        text = json.dumps(json.loads(text), sort_keys=True)
    return f'["{xxh3_64_hexdigest(text.encode())}", {text}]\n'.encode()


GOOD = {"shard": "a", "size": 10, "pieces": [f"10 {HEX}"]}
WRONG: tuple[object, ...] = (None, True, -1, 1.5, "x", "../a", [], [1], ["x"], {}, {"a": 1}, 10**30)


@pytest.mark.parametrize("field", [*GOOD])
@pytest.mark.parametrize("value", WRONG, ids=map(repr, WRONG))
def test_a_line_with_a_wrong_field_counts_as_not_written(
    src: Path, field: str, value: object
) -> None:
    """Though its digest is right; nothing that it says reaches a path or the manifest."""
    plan = streamconv.plan(src, max_shard_size=SHARD)
    body = {**GOOD, field: value}
    raw = opening_line(plan) + signed(json.dumps(body)) + finished_line("b", Finished(0, ()))
    journal = read(raw)
    assert journal is not None
    assert finished_shards(plan, [journal]) == {}
    for name, done in journal.finished.items():
        assert isinstance(name, str)
        assert isinstance(done.size, int)
        assert all(isinstance(row, str) for row in done.pieces)
    body.pop(field)
    journal = read(opening_line(plan) + signed(json.dumps(body)))
    assert journal is not None
    assert journal.finished == {}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\n" * 1000,
        bytes(range(256)) + b"\n",
        b"[" * 100_000 + b"\n",
        b'["0", ' + b"[" * 100_000 + b"]" * 100_000 + b"]\n",
        b'["0", ' + b"9" * 5000 + b"]\n",
        b'["0", NaN]\n',
        b"{}\n",
        b"[]\n",
        b'"ab"\n',
        b"null\n",
        signed("{}"),
        signed("[]"),
        signed('{"facts": []}'),
        signed('{"facts": ' + "9" * 4000 + "}"),
        signed(json.dumps(GOOD)),
    ],
    ids=range(16),
)
def test_what_is_no_journal_counts_as_none(raw: bytes) -> None:
    """Empty, binary, deep, of other kinds."""
    assert read(raw) is None


@pytest.mark.parametrize(
    "facts", [{}, {"a": 1}, {"casts": 5}, {"casts": {"a": []}}, {"shard size": [], "x" * 9999: "y"}]
)
def test_facts_of_other_kinds_are_another_conversion(src: Path, facts: dict[str, object]) -> None:
    """Told in one line."""
    plan = streamconv.plan(src, max_shard_size=SHARD)
    journal = read(signed(json.dumps({"facts": facts})))
    assert journal is not None
    found = difference(plan, journal)
    assert 0 < len(found) < 800
    assert found.isprintable()
