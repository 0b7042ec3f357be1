"""Renames that a user asks for: anywhere in a name, one after the other, and what is refused."""

import pytest
from header_models import checkpoint_of

from streamconv.checkpoint.user_renames import parse_rename, rename_tensors
from streamconv.errors import UsageError

PLAIN = ("BF16", (2, 2))


@pytest.mark.parametrize(
    ("rename", "name", "renamed"),
    [
        ("module.=", "module.model.module.norm.weight", "model.norm.weight"),
        ("_orig_mod.=", "layers.0._orig_mod.mlp.gate.weight", "layers.0.mlp.gate.weight"),
        ("model.model.=model.", "model.model.norm.weight", "model.norm.weight"),
        ("*=model.*", "norm.weight", "model.norm.weight"),
        ("model.*=*", "model.norm.weight", "norm.weight"),
        ("model.*=*", "language_model.norm.weight", "language_model.norm.weight"),
        ("*.w=*.weight", "a.w.b.w", "a.w.b.weight"),
        ("a.*.moe.=b.*.mlp.", "a.3.moe.w.a.4.moe.x", "b.3.mlp.w.b.4.mlp.x"),
        ("a.*.c=*", "x.a.b.b.c.y", "x.b.b.y"),
        ("w1=x=y", "w1", "x=y"),
        (".=\\1", "a.b", "a\\1b"),
    ],
)  # fmt: skip
def test_a_rename(rename: str, name: str, renamed: str) -> None:
    assert parse_rename(rename).apply(name) == renamed
    assert str(parse_rename(rename)) == rename


def test_a_long_name_takes_no_time() -> None:
    """A hostile header has names of megabytes. Trying each place with each other takes hours."""
    name = "layers.0." * 200_000
    assert parse_rename("layers.*.moe=x.*").apply(name) == name
    assert parse_rename("layers.*.moe=x.*").apply(name + "moe") == "x." + name[7:-1]


@pytest.mark.parametrize("text", ["", "a", "=", "=b", "a=*", "*a*=b", "a*=**"])
def test_what_is_no_rename(text: str) -> None:
    with pytest.raises(UsageError, match="cannot use the rename"):
        parse_rename(text)


def test_renames_are_done_one_after_the_other() -> None:
    """Two names can be exchanged through a third one."""
    source = checkpoint_of({"a.w": PLAIN, "b.w": PLAIN})
    renames = [parse_rename(text) for text in ("a.=c.", "b.=a.", "c.=b.")]
    renamed, stored = rename_tensors(source, renames)
    assert stored == {"b.w": "a.w", "a.w": "b.w"}
    assert {n: info.offset for n, info in renamed.tensors.items()} == {
        stored_as: source.tensors[name].offset for stored_as, name in stored.items()
    }
    assert [(r.text, r.count) for r in renamed.renames] == [
        ("a.=c.", 1),
        ("b.=a.", 1),
        ("c.=b.", 1),
    ]


@pytest.mark.parametrize(
    ("rename", "words"),
    [
        ("b.=a.", r"cannot rename b\.w to a\.w: there is a tensor of that name"),
        ("a.=b.", r"cannot rename a\.w to b\.w: there is a tensor of that name"),
        ("*=c", r"cannot rename b\.w to c: a\.w gets it, too"),
        ("mlp.=", r"cannot rename mlp\.=: it changes no name of a tensor of "),
        ("a.w=", r"cannot rename a\.w: nothing would be left"),
    ],
)
def test_what_cannot_be_renamed(rename: str, words: str) -> None:
    source = checkpoint_of({"a.w": PLAIN, "b.w": PLAIN})
    with pytest.raises(UsageError, match=words):
        rename_tensors(source, [parse_rename(rename)])
