"""Completion: what click answers a shell, and what bash does with its script."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from streamconv.catalog.catalog import default_catalog
from streamconv.catalog.families import FORMS
from streamconv.cli import VERBS, cli, main

LAYOUTS = list(default_catalog().layouts)


def completed(*words: str) -> list[str]:
    """Return what is offered for the last word."""
    *before, incomplete = words
    asked = ShellComplete(cli, {}, "streamconv", "_STREAMCONV_COMPLETE")
    return [item.value for item in asked.get_completions(before, incomplete)]


def test_verbs_and_options() -> None:
    assert completed("") == list(VERBS)
    assert completed("me") == ["merge"]
    assert "--max-shard-size" in completed("merge", "--max")


@pytest.mark.parametrize("verb", ["merge", "convert"])
def test_forms_and_layouts(verb: str) -> None:
    assert completed(verb, "src", "dst", "--to", "") == [*FORMS, *LAYOUTS, "same"]
    assert completed(verb, "src", "dst", "--from", "fused-t") == ["fused-transposed"]


def test_layouts_of_a_file_of_families(tmp_path: Path) -> None:
    """They are offered, too; a file that is wrong leaves the others."""
    file = tmp_path / "mine.toml"
    file.write_text(
        '[layouts.mine]\nused_by = "me"\ngate_up = "moe.a : e (p i) h"\ndown = "moe.b : e h i"\n'
    )
    words = ("merge", "--family", str(file), "src", "dst", "--to", "mi")
    assert completed(*words) == ["mindspeed", "mine"]
    file.write_text("nonsense")
    assert completed(*words) == ["mindspeed"]


def test_names_of_rows_and_choices() -> None:
    assert completed("families", "qwen3_m") == ["qwen3_moe"]
    assert completed("layouts", "fused-f") == ["fused-flat"]
    assert completed("merge", "--preset", "") == ["mindspeed"]
    assert completed("merge", "--dtype", "") == ["bf16", "fp16", "fp32"]
    assert completed("verify", "a", "b", "--to", "h") == ["hub"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_scripts(
    shell: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Printing one is a success."""
    monkeypatch.setattr(sys, "argv", ["streamconv"])
    monkeypatch.setenv("_STREAMCONV_COMPLETE", f"{shell}_source")
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    assert "_STREAMCONV_COMPLETE" in capfd.readouterr().out


def test_in_bash(tmp_path: Path) -> None:
    """The script of the guide, and the variables that bash sets when somebody presses TAB."""
    tool = tmp_path / "streamconv"
    tool.write_text(
        f"#!{sys.executable}\nimport sys\nsys.argv[0] = 'streamconv'\n"
        "from streamconv.cli import main\nmain()\n"
    )
    tool.chmod(0o755)
    script = (
        'eval "$(_STREAMCONV_COMPLETE=bash_source streamconv)"\n'
        "COMP_WORDS=(streamconv merge a b --to fused-)\nCOMP_CWORD=5\n"
        '_streamconv_completion streamconv\nprintf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout.split() == [name for name in LAYOUTS if name.startswith("fused-")], done
