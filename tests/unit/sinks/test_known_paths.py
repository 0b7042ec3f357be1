"""Which paths of a folder may be removed: those of its manifest, of a checkpoint, of runs."""

import json
from pathlib import Path

import pytest
from shard_plans import FORMATS, plan_of

from streamconv.checkpoint.types import OtherFile
from streamconv.planning.manifest import build_manifest
from streamconv.sinks.folder_contents import list_contents
from streamconv.sinks.journal import Finished, Journal
from streamconv.sinks.known_paths import checkpoint_paths, is_evidence, partial_paths
from streamconv.system.file_ops import Files


def fill(folder: Path, *names: str, **texts: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(texts.get(Path(name).stem, "{}"))
    return folder


def foreign(folder: Path) -> list[str]:
    known = checkpoint_paths(folder, Files())
    return [each.name for each in list_contents(folder, known, Files()).foreign]


def test_a_checkpoint(tmp_path: Path) -> None:
    """Every path in it is in the table."""
    names = ("config.json", "model.safetensors", "tokenizer.json", "figures/a.png", "LICENSE")
    assert foreign(fill(tmp_path / "out", *names)) == []


@pytest.mark.parametrize(
    "other",
    [
        *("src/main.py", ".git/HEAD", ".hidden", "main.py", "iter_0000100/.metadata"),
        *("deep/config.json", "figures/a.py", "notes.txt", "LICENSE.py", "empty/"),
    ],
)
def test_something_else_in_a_checkpoint(tmp_path: Path, other: str) -> None:
    """It is named; a folder that is unknown as one."""
    folder = fill(tmp_path / "out", "config.json", "model.safetensors")
    if other.endswith("/"):
        (folder / other).mkdir()
    else:
        fill(folder, other)
    top = f"{other.partition('/')[0]}/" if "/" in other else other
    assert foreign(folder) == [other if other.startswith("figures") else top]


def test_a_folder_that_is_no_checkpoint(tmp_path: Path) -> None:
    """Every path in it is somebody else's, whatever it is called."""
    folder = fill(tmp_path / "out", "config.json", "README.md", "figures/a.png")
    assert foreign(folder) == ["README.md", "config.json", "figures/"]
    fill(folder, "model.safetensors")
    assert foreign(folder) == []


@pytest.mark.parametrize("written", FORMATS)
def test_a_result(tmp_path: Path, written: str) -> None:
    """Of each format, with the folders that it copied; a newer save next to it is refused."""
    others = () if written != "safetensors" else (OtherFile("notes/readme.txt", 2),)
    plan = plan_of([4, 4], tmp_path / "src", written, others)
    names = [shard.name for shard in plan.shards]
    closing = [
        name
        for name, content in plan.format.closing_files(
            plan.shards, lambda listed: build_manifest(plan, [["4 x"], ["4 x"]], {}, {})
        )
    ]
    manifest = build_manifest(plan, [["4 x"]] * 2, {o.name: (2, "x") for o in others}, {})
    folder = fill(
        tmp_path / "out",
        *(*names, *closing, *(other.name for other in others)),
        streamconv=b"".join(manifest.encode()).decode(),
    )
    if written == "safetensors":
        fill(folder, "config.json")
    assert foreign(folder) == []
    fill(folder, "iter_0000100/.metadata", "iter_0000100/__0_0.distcp")
    assert foreign(folder) == ["iter_0000100/"]


def test_code(tmp_path: Path) -> None:
    """Only at the top, and only if a config names it, with or without a repository."""
    auto_map = {
        "AutoConfig": "configuration_x.XConfig",
        "AutoModel": "org/repo--modeling_x.XModel",
        "AutoTokenizer": ["tokenization_x.XTokenizer", None],
        "wrong": 5,
    }
    folder = fill(
        tmp_path / "out",
        *("config.json", "model.safetensors", "configuration_x.py", "modeling_x.py"),
        *("tokenization_x.py", "other.py", "figures/modeling_x.py"),
        config=json.dumps({"auto_map": auto_map}),
    )
    assert foreign(folder) == ["figures/modeling_x.py", "other.py"]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"shards": [], "files": 7}', '{"shards": {}}'])
def test_a_manifest_that_names_nothing(tmp_path: Path, text: str) -> None:
    """Malformed, or of something else: every path is unknown but the manifest."""
    folder = fill(tmp_path / "out", "streamconv.json", "notes.txt", streamconv=text)
    assert "notes.txt" in foreign(folder)


def test_a_removal_that_was_cut_short(tmp_path: Path) -> None:
    """Config and weights may be gone; the files of the table are still known, nothing else."""
    folder = fill(tmp_path / "out", "tokenizer.json", "mine.txt", "empty/x")
    (folder / "empty" / "x").unlink()
    known = checkpoint_paths(folder, Files(), is_being_removed=True)
    contents = list_contents(folder, known, Files())
    assert [each.name for each in contents.foreign] == ["mine.txt"]
    assert [name for name in ("config.json", "streamconv.json", "x") if is_evidence(name)] == [
        "config.json",
        "streamconv.json",
    ]


def test_a_partial_folder(tmp_path: Path) -> None:
    """The names of the plan, of journals, and of what any conversion writes."""
    plan = plan_of([4, 4], tmp_path / "src", others=(OtherFile("notes/readme.txt", 2),))
    journal = Journal({"other files": {"old/notes.md": {}}}, {"odd.safetensors": Finished(1, ())})
    known = partial_paths(plan, [journal, Journal({"other files": 5})])
    for name in (
        *("notes/readme.txt", "old/notes.md", "odd.safetensors", "model.safetensors"),
        *("streamconv-journal-1.jsonl", "streamconv-journal-1.new", "release/.metadata"),
    ):
        assert known.names_file(name)
    for name in ("precious", "notes/other.txt", "notes/streamconv-journal-1.jsonl"):
        assert not known.names_file(name)
    assert known.names_folder("notes")
    assert not known.names_folder("other")
