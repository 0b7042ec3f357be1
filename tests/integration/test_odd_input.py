"""What looks odd and is legal is converted, comes back, and is shown without harm."""

# Changes made by a lambda are calls in a list, whose values nobody needs.
# mypy: disable-error-code="func-returns-value"
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import safetensors
from broken import FIRST, SECOND, Break, also, bare, only, sound, tensors
from click.testing import CliRunner
from folders import (
    INDEX,
    Tensors,
    framed,
    header_of,
    qwen_tensors,
    read_checkpoint,
    read_shard,
    tensor,
    tree,
    two_shards,
    write_checkpoint,
    write_shard,
)

import streamconv
from streamconv.cli import cli


def padded(src: Path) -> None:
    src.mkdir()
    write_shard(src / "model.safetensors", qwen_tensors(), padding=1000)


def unaligned(src: Path) -> None:
    """Wide elements after an odd number of bytes, in a file whose header has an odd length."""
    named = {"odd": tensor("odd", "U8", 7), **qwen_tensors(dtype="F32")}
    src.mkdir()
    path = src / "model.safetensors"
    write_shard(path, named)
    if int.from_bytes(path.read_bytes()[:8], "little") % 2 == 0:
        write_shard(path, named, padding=1)
    assert int.from_bytes(path.read_bytes()[:8], "little") % 2 == 1


def reversed_header(src: Path) -> None:
    """A header in another order than the bytes that it describes."""
    named = qwen_tensors()
    fields = header_of(named, {"format": "pt", "note": "a\nb"})
    content = json.dumps(dict(reversed(fields.items()))).encode()
    src.mkdir()
    data = b"".join(data for _, _, data in named.values())
    (src / "model.safetensors").write_bytes(framed(content, data))


def hub_cache(src: Path) -> None:
    """Links from snapshots/<revision>/ to blobs/<digest>, as the hub's library downloads."""
    repository = src.parent / "models--org--name"
    sound(src)
    (repository / "blobs").mkdir(parents=True)
    (repository / "snapshots").mkdir()
    for path in [path for path in src.rglob("*") if path.is_file()]:
        blob = repository / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        path.rename(blob)
        path.symlink_to(os.path.relpath(blob, path.parent))
    snapshot = repository / "snapshots" / "0123abc"
    src.rename(snapshot)
    for path in [path for path in snapshot.rglob("*") if path.is_symlink()]:
        blob = repository / "blobs" / path.readlink().name
        path.unlink()
        path.symlink_to(os.path.relpath(blob, path.parent))
    src.symlink_to(snapshot)


def extra(**named: tuple[Any, ...]) -> Break:
    """Tensors other than experts, by name, as dtype and sizes."""
    return only({**qwen_tensors(), **{name: tensor(name, *what) for name, what in named.items()}})


def large_index(src: Path) -> None:
    """An index of 13.5 MB, as that of a model with 140,000 tensors."""
    sound(src)
    index = json.loads((src / INDEX).read_text())
    (src / INDEX).write_text(json.dumps({**index, "metadata": {"note": "x" * 13_500_000}}))


ODD: dict[str, Break] = {
    "header padded with spaces": padded,
    "header in another order": reversed_header,
    "unaligned": unaligned,
    "no metadata, one shard, no index": bare({"model.safetensors": qwen_tensors()}, index=False),
    "one shard with an index": bare({"model.safetensors": qwen_tensors()}),
    "one shard with another name": bare({"weights.safetensors": qwen_tensors()}, index=False),
    "several shards, no index": bare(two_shards(qwen_tensors()), index=False),
    "weird names of shards": bare(
        {
            "\N{SNOWMAN} a b.safetensors": two_shards(qwen_tensors())[FIRST],
            "sub/.hidden-[1].safetensors": two_shards(qwen_tensors())[SECOND],
        }
    ),
    "index with another name": lambda src: [
        write_checkpoint(src, two_shards(qwen_tensors())),
        (src / INDEX).rename(src / "x.safetensors.index.json"),
    ],
    "a wrong total in the index": lambda src: [
        sound(src),
        (src / INDEX).write_text(
            json.dumps({"metadata": {"total_size": "x"}, **json.loads((src / INDEX).read_text())})
        ),
    ],
    "an empty shard next to the others": bare(
        {**two_shards(qwen_tensors()), "empty.safetensors": {}}, index=False
    ),
    "an index of 13.5 MB": large_index,
    "shards numbered from 0": bare(
        {
            f"m-{number}-of-00002.safetensors": tensors
            for number, tensors in enumerate(two_shards(qwen_tensors()).values())
        },
        index=False,
    ),
    "a shard that is not in the index": lambda src: [
        sound(src),
        (src / "stale.safetensors").write_bytes(b"not even a header"),
    ],
    "tensors of no size": extra(none=("F32", 0), **{"none.2d": ("BF16", 4, 0, 3)}),
    "tensors without dimensions": extra(scalar=("F32",), **{"a.byte": ("U8",)}),
    "odd lengths": extra(seven=("U8", 7), five=("BF16", 5), thirteen=("I8", 13)),
    "names in Unicode": extra(**{"\N{SNOWMAN}.w\N{COMBINING ACUTE ACCENT}": ("F16", 3)}),
    "an empty name": extra(**{"": ("F16", 3)}),
    "names that look like paths": extra(**{"../../etc/passwd": ("U8", 3), "/": ("U8", 1)}),
    "names with control characters": extra(**{"a\nb\x1b[31m\0": ("U8", 3)}),
    "names with quotes and braces": extra(**{'"\\{e}%s*': ("U8", 3)}),
    "names of nothing but dots": extra(**{".": ("U8", 1), "...": ("U8", 2), "1.2.": ("U8", 3)}),
    "numbers beyond all layers": extra(
        **{f"model.layers.{10**30}.x": ("U8", 1), "model.layers.\N{SUPERSCRIPT TWO}.x": ("U8", 2)}
    ),
    "a file far below": also(
        lambda src: [
            (src / ("a/" * 100)).mkdir(parents=True),
            (src / ("a/" * 100) / "x").touch(),
        ]
    ),
    "a rare dtype": extra(
        f4=("F4", 2, 3), f8=("F8_E8M0", 5), b=("BOOL", 3), c=("C64", 2), u=("U64", 1)
    ),
    "experts of half bytes": only(qwen_tensors(dtype="F4")),
    "experts of bytes": only(qwen_tensors(dtype="F8_E4M3")),
    "down of another dtype": tensors(
        lambda t: t.update(
            {name: tensor(name, "F32", 4, 6) for name in t if name.endswith("down_proj.weight")}
        )
    ),
    "one expert": only(qwen_tensors(experts=1), {"model_type": "qwen3_moe"}),
    "experts of one element": only(qwen_tensors(hidden=1, intermediate=1)),
    "experts at the top": only(
        {
            name.removeprefix("model.layers.0.mlp."): value
            for name, value in qwen_tensors(layers=1).items()
        }
    ),
    "a config that says nothing": only(qwen_tensors(), {"model_type": ["x"], "num_experts": "3"}),
    "no config": only(qwen_tensors(), None),
    "a model type that is markup": only(qwen_tensors(), {"model_type": "[/b]"}),
    "names that are markup": only(qwen_tensors(prefix="[/b][red].:smile:.")),
    "the hub's cache": hub_cache,
    "SRC is a link": lambda src: [sound(src.parent / "x"), src.symlink_to("x")],
    "a link inside the folder": also(lambda src: (src / "link.txt").symlink_to("notes/readme.txt")),
    "another file whose name is not UTF-8": also(lambda src: (src / "caf\udce9.txt").touch()),
    "another file whose name is markup": also(
        lambda src: [
            (src / "pytorch_model[red].bin").touch(),
            (src / "original[").mkdir(),
            (src / "original[" / "b].txt").touch(),
        ]
    ),
}


def odd(test: Any) -> Any:
    return pytest.mark.parametrize("build", ODD.values(), ids=ODD)(test)


def held(src: Path) -> Tensors:
    """The tensors of a source, in shards in subfolders as well."""
    found: Tensors = {}
    names = [path for path in src.rglob("*.safetensors") if path.is_file()]
    for path in names:
        if path.name != "stale.safetensors":
            found.update(read_shard(path)[0])
    return found


@odd
def test_odd_and_legal_comes_back(build: Break, tmp_path: Path) -> None:
    src, merged, again = (tmp_path / name for name in ("src", "merged", "again"))
    build(src)
    before = tree(tmp_path)
    streamconv.merge(src, merged, verify=True)
    streamconv.split(merged, again, verify=True)
    assert streamconv.verify(src, again).ok
    assert streamconv.verify(merged, sha256=True).ok
    tensors = held(src)
    assert read_checkpoint(again) == tensors
    alone = {name: value for name, value in tensors.items() if "experts." not in name}
    found = read_checkpoint(merged)
    assert {name: found[name] for name in alone} == alone
    after = tree(tmp_path)
    assert {path: after[path] for path in before} == before
    assert {path.split("/")[0] for path in after.keys() - before.keys()} == {"merged", "again"}


@odd
def test_odd_and_legal_is_written_as_others_read_it(build: Break, tmp_path: Path) -> None:
    """What comes out is read by the format's own library."""
    build(tmp_path / "src")
    streamconv.merge(tmp_path / "src", tmp_path / "dst", max_shard_size=700)
    found: dict[str, bytes] = {}
    for path in (tmp_path / "dst").glob("*.safetensors"):
        if path.is_file():
            for name, fields in safetensors.deserialize(path.read_bytes()):
                assert name not in found
                found[name] = bytes(fields["data"])
    expected = {
        name: data
        for name, (_, _, data) in held(tmp_path / "src").items()
        if "experts." not in name
    }
    assert {name: found[name] for name in expected} == expected
    assert sum(map(len, found.values())) == sum(
        len(data) for _, _, data in held(tmp_path / "src").values()
    )


@odd
@pytest.mark.parametrize("verb", ["inspect", "merge", "merge --layers"])
def test_odd_and_legal_is_shown(build: Break, verb: str, tmp_path: Path) -> None:
    """Tables are printed for it, without a character that a terminal would obey."""
    build(tmp_path / "src")
    words = [verb.split(maxsplit=1)[0], str(tmp_path / "src")]
    words += [str(tmp_path / "dst"), "--dry-run", "-v"] if words[0] == "merge" else []
    words += ["--layers", "0:1"] if "--layers" in verb else []
    result = CliRunner().invoke(cli, words, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    assert [line for line in result.output.splitlines() if not line.isprintable()] == []
    for shown in ("[/b]", "[red]"):
        if build is ODD["a model type that is markup"] and shown == "[/b]":
            assert shown in result.output
        if build is ODD["names that are markup"]:
            assert shown in result.output
    if build is ODD["another file whose name is markup"] and verb != "inspect":
        assert "pytorch_model[red].bin" in result.output


@odd
def test_odd_and_legal_is_valid_json(build: Break, tmp_path: Path) -> None:
    build(tmp_path / "src")
    words = ["merge", str(tmp_path / "src"), str(tmp_path / "dst"), "--dry-run", "--json"]
    result = CliRunner().invoke(cli, words, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    plan = json.loads(result.stdout)
    assert plan["data_bytes"] == sum(len(d) for _, _, d in held(tmp_path / "src").values())
