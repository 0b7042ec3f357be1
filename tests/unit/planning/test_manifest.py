"""What a plan says of itself: its fingerprint, and what the manifest of its output lists."""

import hashlib
import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from header_models import model, planned
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_plans import plan_of
from xxhash import xxh3_128_hexdigest

from streamconv.checkpoint.file_records import RecordedOther, RecordedShard
from streamconv.checkpoint.types import SourceFile
from streamconv.planning.manifest import (
    build_manifest,
    closing_files,
    fingerprint,
    fingerprint_of,
    plan_facts,
)
from streamconv.planning.memory import Limits
from streamconv.planning.plan import Plan

HEX = "0123456789abcdef" * 2


def plan(**options: object) -> Plan:
    return planned(model(layers=1, e=3), **options)  # type: ignore[arg-type]


def test_runs_of_one_conversion_have_one_fingerprint() -> None:
    """Wherever the source lies, and whatever memory there is."""
    same = fingerprint(plan())
    assert len(same) == 32
    assert fingerprint(plan(limits=Limits(base=10**8))) == same
    elsewhere = replace(plan().checkpoint, location="/somewhere/else")
    assert fingerprint(replace(plan(), checkpoint=elsewhere)) == same


@pytest.mark.parametrize(
    "other",
    [
        plan(to="stacked"),
        replace(plan(), max_shard_bytes=300),
        plan(layers=range(1)),
        replace(plan(), checkpoint=replace(plan().checkpoint, revision="c" * 40)),
        replace(
            plan(),
            checkpoint=replace(plan().checkpoint, files=(SourceFile("0.safetensors", 9, HEX),)),
        ),
    ],
    ids=["layout", "shard size", "layers", "revision", "source file"],
)
def test_another_conversion_has_another_fingerprint(other: Plan) -> None:
    assert fingerprint(other) != fingerprint(plan())


def test_a_fingerprint_holds_no_names() -> None:
    """Of the many tensors that a split makes."""
    whole = planned(model(layers=1, e=4000, i=1, h=1, layout="fused"), "per-expert")
    tracemalloc.start()
    fingerprint(whole)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30 * len(whole.steps)


def test_stacks_of_one_pattern_use_templates_together() -> None:
    """Whichever is the last: of some layers, a part of the weights may lie in another stack."""
    whole = plan(to="fused")
    stack = whole.source.stacks[0]
    fewer = [
        replace(module, tensors={w: info for w, info in module.tensors.items() if w != "down"})
        for module in stack.modules
    ]
    facts = plan_facts(whole, used_only=True)
    for stacks in (
        (stack, replace(stack, modules=tuple(fewer))),
        (replace(stack, modules=tuple(fewer)), stack),
    ):
        both = replace(whole, source=replace(whole.source, stacks=stacks))
        assert plan_facts(both, used_only=True)["source layouts"] == facts["source layouts"]


def test_the_manifest_lists_shards_and_files(tmp_path: Path) -> None:
    """Shards in the order of the plan, other files by their names, SHA-256 if it is known."""
    pieces = [[f"6 {HEX}"], [f"3 {HEX}", f"1 {HEX}"]]
    plan = plan_of([6, 4], tmp_path)
    first, second = (shard.name for shard in plan.shards)
    files = {"b.txt": (2, HEX), "a.txt": (1, HEX)}
    manifest = build_manifest(plan, pieces, files, {first: "e" * 64, "b.txt": "d" * 64})
    assert manifest.fingerprint == fingerprint(plan)
    assert [*manifest.shards.items()] == [
        (first, RecordedShard(6, pieces[0], "e" * 64)),
        (second, RecordedShard(4, pieces[1])),
    ]
    assert [*manifest.others.items()] == [
        ("a.txt", RecordedOther(1, HEX)),
        ("b.txt", RecordedOther(2, HEX, "d" * 64)),
    ]


@pytest.mark.parametrize("hashed", [False, True])
def test_the_index_is_in_the_manifest_that_follows_it(tmp_path: Path, hashed: bool) -> None:
    """With the digest of its bytes, and their SHA-256 if the manifest has those of all files."""
    plan = plan_of([6, 4], tmp_path)
    known = {shard.name: "e" * 64 for shard in plan.shards}
    pieces = [[f"6 {HEX}"], [f"4 {HEX}"]]
    (index, raw), (name, manifest) = closing_files(plan, pieces, {}, known if hashed else None)
    assert (index, name) == ("model.safetensors.index.json", "streamconv.json")
    digest, sha256 = xxh3_128_hexdigest(raw), hashlib.sha256(raw).hexdigest()
    expected = RecordedOther(len(raw), digest, sha256 if hashed else None)
    all_known = {**known, index: sha256} if hashed else {}
    listed = build_manifest(plan, pieces, {index: (len(raw), digest)}, all_known)
    assert listed.others == {index: expected}
    assert manifest == b"".join(listed.encode())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(deadline=None, max_examples=100)
@given(facts=st.dictionaries(st.text(), JSON))
def test_a_fingerprint_is_that_of_sorted_json(facts: dict[str, Any]) -> None:
    """As of earlier versions, which have written journals; whatever the facts are."""
    text = json.dumps(facts, sort_keys=True)
    assert fingerprint_of(facts) == xxh3_128_hexdigest(text.encode())


def test_a_fingerprint_of_many_tensors_takes_little_memory() -> None:
    """Their rows become text one by one."""
    rows = {f"model.layers.{k}.mlp.down_proj.weight": ["BF16", "U8", []] for k in range(20_000)}
    tracemalloc.start()
    fingerprint_of({"casts": rows})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.5 * len(json.dumps({"casts": rows}))
