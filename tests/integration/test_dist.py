"""What `make dist` builds: its contents, and how it runs where nothing else is installed."""

import email
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from folders import qwen_tensors, write_checkpoint
from import_graph import ROOT
from packaging.requirements import Requirement

import streamconv

FILES = ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "SECURITY.md")
CORE = {"click", "huggingface_hub", "numpy", "rich", "safetensors", "xxhash"}
"""What the package needs for all but `check` and torchrun."""
PROJECT = ROOT if (ROOT / "pyproject.toml").exists() else ROOT.parent


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel and an sdist, built from a copy: building writes next to the sources."""
    place = tmp_path_factory.mktemp("dist")
    source = place / "project"
    without = shutil.ignore_patterns("__pycache__")
    for folder in ("streamconv", "docs"):
        shutil.copytree(PROJECT / folder, source / folder, ignore=without)
    for name in (*FILES, "CONTRIBUTING.md"):
        shutil.copy(PROJECT / name, source)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(place / "out")]
    done = subprocess.run(build, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return place / "out"


def package_files() -> dict[str, bytes]:
    """Every file of the package, by its path."""
    found = (path for path in (PROJECT / "streamconv").rglob("*") if path.is_file())
    return {
        path.relative_to(PROJECT).as_posix(): path.read_bytes()
        for path in found
        if "__pycache__" not in path.parts
    }


def test_the_wheel_holds_the_package(dist: Path) -> None:
    """Code, tables, schema, licence and the mark of typed packages; nothing else."""
    (wheel,) = dist.glob("*.whl")
    assert wheel.name == f"streamconv-{streamconv.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    info = f"streamconv-{streamconv.__version__}.dist-info/"
    assert {name: raw for name, raw in held.items() if not name.startswith(info)} == package_files()
    assert held[f"{info}licenses/LICENSE"] == (PROJECT / "LICENSE").read_bytes()
    assert {"streamconv/py.typed", "streamconv/report/schema.json"} < held.keys()
    metadata = email.message_from_bytes(held[f"{info}METADATA"])
    assert metadata["Version"] == streamconv.__version__
    assert set(metadata.get_all("Provides-Extra", [])) >= {"torch", "fsspec", "all"}
    needed = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    assert {each.name for each in needed if each.marker is None} == CORE
    assert metadata.get_payload().startswith("# streamconv")  # type: ignore[union-attr]


def test_the_sdist_holds_the_sources(dist: Path) -> None:
    """And what a packager reads."""
    (sdist,) = dist.glob("*.tar.gz")
    top = f"streamconv-{streamconv.__version__}/"
    with tarfile.open(sdist) as archive:
        names = {member.name.removeprefix(top) for member in archive if member.isfile()}
    assert package_files().keys() | {*FILES} <= names
    assert "docs/architecture.md" in names
    assert not any(name.startswith(("tests/", ".")) for name in names)


def test_the_changelog_is_of_this_version() -> None:
    text = (PROJECT / "CHANGELOG.md").read_text()
    assert f"\n## {streamconv.__version__}" in text


# --- installed ---------------------------------------------------------------------------------


def needed_by(names: set[str]) -> set[str]:
    """The names of distributions, and of all that they need."""
    found: set[str] = set()
    pending = {*names}
    while pending:
        name = pending.pop()
        try:
            texts = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform
        found.add(name)
        needed = [Requirement(text) for text in texts]
        pending |= {
            each.name
            for each in needed
            if each.marker is None or each.marker.evaluate({"extra": ""})
        } - found
    return found


@pytest.fixture(scope="module")
def python(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the wheel, and with nothing but what it needs.

    What it needs is linked from this environment, so that no network is used.
    """
    place = tmp_path_factory.mktemp("environment") / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    (wheel,) = dist.glob("*.whl")
    python = place / "bin" / "python"
    install = ["-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
    options = ["--no-index", "--disable-pip-version-check", str(wheel)]
    subprocess.run([sys.executable, *install, *options], check=True)
    (packages,) = (place / "lib").glob("python*/site-packages")
    for name in needed_by(CORE):
        distribution = importlib.metadata.distribution(name)
        for file in distribution.files or ():
            top = packages / file.parts[0]
            if file.parts[0] != ".." and not top.exists():
                top.symlink_to(Path(str(distribution.locate_file(file.parts[0]))))
    return python


def run(python: Path, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [str(python), "-m", "streamconv", *words],
        cwd=python.parent,
        env=kept | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_runs_without_torch(python: Path, tmp_path: Path) -> None:
    """Everything but what needs torch, which says so in one line with the command."""
    done = run(python, "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert streamconv.__version__ in done.stdout
    tensors = {"model.safetensors": qwen_tensors()}
    config = {"model_type": "qwen3_moe", "num_experts": 3, "dtype": "bfloat16"}
    source = str(write_checkpoint(tmp_path / "source", tensors, config))
    out = str(tmp_path / "out")
    for words in (
        ["inspect", source],
        ["merge", source, out, "--dtype", "fp32", "--verify"],
        ["verify", source, out],
        ["merge", source, f"{out}-dcp", "--format", "dcp"],
        ["split", f"{out}-dcp", f"{out}-back", "--template", source, "--verify"],
        ["families"],
        ["smoke"],
    ):
        done = run(python, *words)
        assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == "float32"
    hint = "\n            run `pip install 'streamconv[torch]'`\n"
    done = run(python, "check", out)
    says = (
        "cannot check if transformers loads a checkpoint: torch and transformers are not installed"
    )
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == f"streamconv: {says}{hint}"
    torchrun = {"TORCHELASTIC_RUN_ID": "none", "RANK": "0", "WORLD_SIZE": "2"}
    for more in (["--dry-run"], []):
        done = run(python, "merge", source, f"{out}-ranks", *more, **torchrun)
        says = "cannot share a conversion with other ranks: torch is not installed"
        assert (done.returncode, done.stderr) == (4, f"streamconv: {says}{hint}")
