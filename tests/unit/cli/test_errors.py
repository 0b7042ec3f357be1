"""Errors of the command line: what was meant, and JSON for programs."""

import json
import re
from pathlib import Path

import pytest

from streamconv.cli import main
from streamconv.errors import did_you_mean
from streamconv.report.schema import SCHEMA_VERSION


def failed(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Return the exit code and stderr of a command line that fails; stdout stays empty."""
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    out, err = capfd.readouterr()
    assert out == ""
    assert isinstance(stop.value.code, int)
    return stop.value.code, err


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("mrege", "a", "b"), "merge"),
        (("MERGE",), "merge"),
        (("inspekt", "a"), "inspect"),
        (("fuse", "a", "b"), "merge"),
        (("unmerge", "a", "b"), "split"),
        (("diff", "a", "b"), "verify"),
        (("merge", "a", "b", "--to", "fuzed"), "fused"),
        (("merge", "a", "b", "--to", "FUSED"), "fused"),
        (("merge", "a", "b", "--to", "fused_transposed"), "fused-transposed"),
        (("merge", "a", "b", "--to", "Transformer"), "transformers"),
        (("convert", "a", "b", "--to", "sam"), "same"),
        (("split", "a", "b", "--from", "mindspead"), "mindspeed"),
        (("inspect", "a", "--from", "per_expert"), "per-expert"),
        (("verify", "a", "b", "--to", "huB"), "hub"),
        (("merge", "a", "b", "--preset", "MindSpeed"), "mindspeed"),
        (("merge", "a", "b", "--dtype", "bfloat16"), "bf16"),
        (("merge", "a", "b", "--dequantize", "float16"), "fp16"),
        (("merge", "a", "b", "--format", "safetensor"), "safetensors"),
        (("families", "qwen3moe"), "qwen3_moe"),
        (("layouts", "stackd"), "stacked"),
    ],
)
def test_what_was_meant(
    words: tuple[str, ...], meant: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Named before anything is opened: there are no such checkpoints."""
    code, err = failed(capfd, *words)
    assert code == 2, err
    assert f"did you mean {meant}?" in err


def test_forms_and_layouts_are_one_list(capfd: pytest.CaptureFixture[str]) -> None:
    _, err = failed(capfd, "merge", "a", "b", "--to", "xyz")
    assert "choose from hub, transformers, mindspeed, same, per-expert, fused, " in err


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--max-shard-size", "4", ("4 bytes?", "4GB")),
        ("--max-shard-size", "1", ("1 byte?", "1GB")),
        ("--max-memory", "16", ("16 bytes?", "16GB")),
        ("--max-rate", "200", ("200 bytes?", "200MB")),
        ("--max-rate", "200/s", ("200 bytes?", "200MB")),
    ],
)
def test_a_forgotten_unit(
    option: str, value: str, words: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    code, err = failed(capfd, "merge", ".", "dst", option, value)
    assert [word for word in words if word not in err] == []
    assert code == 2


@pytest.mark.parametrize("number", ["many", "1.5", "0", "-1", "1025", ""])
@pytest.mark.parametrize("verb", ["merge", "verify"])
def test_a_number_of_workers(verb: str, number: str, capfd: pytest.CaptureFixture[str]) -> None:
    """What would be right is said of a word as of a number that is too large."""
    code, err = failed(capfd, verb, "a", "b", "--jobs", number)
    assert code == 2
    assert f"'{number}' is not a number from 1 to 1024" in err


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        (None, "No such file", "give the path of a TOML file"),
        ("x = ", "Invalid value", "compare it with the tables in "),
        ("x.y" + 20 * ".z" + " = 1", "more than 16 dots", "compare it with the tables in "),
        ("[familys]", "there is no such table", "name it one of namings, "),
        ("[families.x]\nstacks = 3", "it is missing", "compare it with the tables in "),
    ],
)
def test_a_wrong_file_of_families(
    content: str | None,
    message: str,
    hint: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The path of the tables that are shipped is one that there is."""
    file = tmp_path / "families.toml"
    if content is not None:
        file.write_text(content)
    code, err = failed(capfd, "merge", "a", "b", "--family", str(file))
    assert code == 2
    assert message in err
    assert hint in err
    assert err.count(str(file)) == 1
    for shown in re.findall(r"tables in (\S+)", err):
        assert (Path(shown) / "families.toml").is_file()


def test_a_folder_in_the_place_of_a_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, err = failed(capfd, "inspect", "a", "--family", str(tmp_path))
    assert (code, "it is not a regular file" in err) == (2, True)


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (("merge", "nothing-here", "b"), 3, "NoCheckpoint"),
        (("inspect", "nothing-here"), 3, "NoCheckpoint"),
        (("verify", "nothing-here"), 3, "NoCheckpoint"),
        (("merge", "a"), 2, "UsageError"),
        (("mrege",), 2, "UsageError"),
        (("merge", "a", "b", "--to", "fuzed"), 2, "UsageError"),
        (("merge", "a", "b", "--dtype", "x"), 2, "UsageError"),
        (("merge", "a", "b", "--no-such-option"), 2, "UsageError"),
        (("finish", "nothing-here"), 8, "IOFailed"),
        (("families", "x"), 2, "UsageError"),
    ],
)
def test_errors_as_json(
    words: tuple[str, ...],
    code: int,
    error: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A line on stderr, and nothing on stdout; asked for by an option or by the environment."""
    found, err = failed(capfd, *words, "--json")
    fields = json.loads(err)
    assert err.count("\n") == 1
    assert (fields["schema"], fields["kind"]) == (SCHEMA_VERSION, "error")
    assert (found, fields["exit_code"], fields["error"]) == (code, code, error)
    assert fields["message"]
    monkeypatch.setenv("STREAMCONV_JSON", "1")
    assert json.loads(failed(capfd, *words)[1]) == fields
    monkeypatch.setenv("STREAMCONV_JSON", "0")
    assert failed(capfd, *words)[1].startswith("streamconv: ")


@pytest.mark.parametrize(
    ("word", "known", "meant"),
    [
        ("a_b", ["a-b"], "did you mean a-b?"),
        ("", ["a"], ""),
        ("x" * 10_000, ["xx"], ""),
        ("trans", ["hub", "transformers"], "did you mean transformers?"),
        ("fused-transpose", ["fused", "fused-transposed"], "did you mean fused-transposed?"),
        ("quite another", ["fused"], ""),
    ],
)
def test_the_most_similar_word(word: str, known: list[str], meant: str) -> None:
    assert did_you_mean(word, known) == meant
