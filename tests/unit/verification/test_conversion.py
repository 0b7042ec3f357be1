"""A comparison opens both checkpoints, as the user and the output's manifest say."""

import json
from pathlib import Path
from typing import Any

import pytest
from folders import read_shard, write_shard
from fused_by_hand import CONFIG, fused, source_tensors, write_pair

import streamconv
from streamconv.catalog.catalog import default_catalog
from streamconv.errors import BadCheckpoint, PlanRefused, UsageError
from streamconv.verification.conversion import verify_conversion
from streamconv.verification.options import VerifyOptions
from streamconv.verification.result import Tally

SHARD = "model.safetensors"
GATE_UP = "model.layers.1.mlp.experts.gate_up_proj"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return write_pair(tmp_path)


def compare(src: Path, dst: Path, **options: Any) -> Tally:
    """Return what a comparison has found."""
    tally = Tally(None)
    options = {"target_layout": "fused", **options}
    verify_conversion(
        str(dst), str(src), VerifyOptions(jobs=1, catalog=default_catalog(), **options), tally
    )
    return tally


def change(dst: Path, name: str, data: bytes) -> None:
    """Replace the bytes of a tensor."""
    tensors, metadata = read_shard(dst / SHARD)
    dtype, shape, _ = tensors[name]
    write_shard(dst / SHARD, {**tensors, name: (dtype, shape, data)}, metadata)


def test_what_another_program_has_made(pair: tuple[Path, Path]) -> None:
    """Concatenated by hand: nothing differs, and every byte of the output was compared."""
    tally = compare(*pair)
    assert (tally.differences, tally.difference_count) == ([], 0)
    tensors = sum(len(data) for _, _, data in fused(source_tensors()).values())
    assert tally.checked_bytes >= tensors


def test_one_bit(pair: tuple[Path, Path]) -> None:
    """Of the last expert of a layer: the difference has its name, number and projection."""
    src, dst = pair
    data = read_shard(dst / SHARD)[0][GATE_UP][2]
    change(dst, GATE_UP, data[:-1] + bytes([data[-1] ^ 1]))
    (found,) = compare(src, dst).differences
    assert (found.subject, found.expert, found.projection) == (GATE_UP, 2, "up_proj")


def test_experts_in_another_order(pair: tuple[Path, Path]) -> None:
    """As text order has it for more than ten; here the first two are exchanged."""
    src, dst = pair
    data = read_shard(dst / SHARD)[0][GATE_UP][2]
    third = len(data) // 3
    change(dst, GATE_UP, data[third : 2 * third] + data[:third] + data[2 * third :])
    assert {found.expert for found in compare(src, dst).differences} == {0, 1}


@pytest.mark.parametrize("layout", [None, "fused-transposed"])
def test_a_layout_that_is_not_the_outputs(pair: tuple[Path, Path], layout: str | None) -> None:
    """Its family says `fused`; a layout that its shapes deny is refused with the right option."""
    if layout is None:
        assert not compare(*pair, target_layout=None).differences
        return
    with pytest.raises(PlanRefused) as caught:
        compare(*pair, target_layout=layout)
    assert "--from" not in caught.value.hint


def test_an_output_that_cannot_be_opened(pair: tuple[Path, Path]) -> None:
    """Is a difference, as is one without a file; a source that cannot be is an error."""
    src, dst = pair
    (dst / SHARD).write_bytes(b"short")
    (found,) = compare(src, dst).differences
    assert found.subject == str(dst)
    (src / "model-00001-of-00002.safetensors").write_bytes(b"short")
    with pytest.raises(BadCheckpoint):
        compare(src, dst)


def test_files_next_to_the_tensors(pair: tuple[Path, Path]) -> None:
    """config.json that says something else differs, and so does a file that is missing."""
    src, dst = pair
    (dst / "config.json").write_text(json.dumps({**CONFIG, "num_experts_per_tok": 9}))
    (src / "tokenizer.json").write_text("{}")
    assert {found.subject for found in compare(src, dst).differences} == {
        "config.json",
        "tokenizer.json",
    }


@pytest.mark.parametrize("manifest", [{"casting": {"dtype": 5}}, {"reading": 5}, []])
def test_a_manifest_that_is_none(pair: tuple[Path, Path], manifest: object) -> None:
    """Its defect is a difference; it neither ends the run nor passes."""
    src, dst = pair
    (dst / "streamconv.json").write_text(json.dumps(manifest))
    assert compare(src, dst).differences


def test_a_cast_that_the_manifest_claims(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """The source is read as if cast, so that an output with the old dtype differs everywhere."""
    src, dst = pair
    cast = tmp_path / "cast"
    streamconv.convert(src, cast, to="fused", dtype="fp32", cast_all=True)
    assert not compare(src, cast).differences
    write_shard(cast / SHARD, read_shard(dst / SHARD)[0], read_shard(cast / SHARD)[1])
    tally = compare(src, cast)
    assert {found.subject for found in tally.differences} >= {*fused(source_tensors())}
    assert any("--dtype F32" in text for text in tally.unchecked)


def test_the_sha256(pair: tuple[Path, Path]) -> None:
    """Of each file of the output, by hashlib."""
    import hashlib

    src, dst = pair
    tally = compare(src, dst, sha256=True)
    assert tally.sha256[SHARD] == hashlib.sha256((dst / SHARD).read_bytes()).hexdigest()


def test_what_was_not_compared_is_named(pair: tuple[Path, Path]) -> None:
    """A sample, in percent."""
    from random import Random

    from streamconv.verification.sides import Sample

    tally = compare(*pair, sample=Sample(0.34, Random(0)))
    assert any("34%" in text for text in tally.unchecked)


def test_a_recorded_rename_that_does_not_fit_the_source(tmp_path: Path) -> None:
    """The user has asked for none, so it is a difference and no mistake in the command."""
    src, dst = write_pair(tmp_path)[0], tmp_path / "made"
    streamconv.convert(src, dst, to="fused")
    manifest = dst / "streamconv.json"
    reading = {"renames": ["nowhere=elsewhere"]}
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "reading": reading}))
    (found,) = compare(src, dst).differences
    assert found.subject == manifest.name
    assert found.detail.startswith("says --rename nowhere=elsewhere: cannot rename ")
    with pytest.raises(UsageError, match="cannot rename none=elsewhere"):
        compare(src, dst, reading={"rename": ["none=elsewhere"]})
