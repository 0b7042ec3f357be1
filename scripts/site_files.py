"""Hooks of MkDocs that let the site have the same sources as GitHub.

The README is its first page, and the other Markdown files of the root are pages, too. A link to
any other file of the repository leads to a copy of it in the site.
"""

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
ROOT_PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
"""The pages of the root, by what they are called in the site."""
_FENCES = re.compile(r"^(```.*?^```$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(\]\(|src=\")(?![a-z]+:)([^)#\s\"]+)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the root, and every file that a page links to."""
    for name, page in ROOT_PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text("utf-8")))
    texts = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    linked = {target for path in texts for target in _linked(path)}
    for path in sorted(linked):
        inside = path.relative_to(ROOT).as_posix()
        if path.is_file() and _in_site(inside).startswith("files/"):
            files.append(File.generated(config, _in_site(inside), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Make every link lead to where the site has its target."""
    sources = {page: name for name, page in ROOT_PAGES.items()}
    path = sources.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    parts = _FENCES.split(markdown)
    parts[::2] = [_moved(part, path) for part in parts[::2]]
    return "".join(parts)


def _linked(path: Path) -> set[Path]:
    """Return the files of the repository that a document links to."""
    text = "".join(_FENCES.split(path.read_text("utf-8"))[::2])
    return {Path(os.path.normpath(path.parent / target)) for _, target in _LINK.findall(text)}


def _moved(text: str, path: str) -> str:
    """Return text of a document with its links as they are in the site."""
    here = posixpath.dirname(_in_site(path))

    def move(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link[2]))
        return link[1] + posixpath.relpath(_in_site(target), here or ".")

    return _LINK.sub(move, text)


def _in_site(path: str) -> str:
    """Return where the site has a file of the repository."""
    if path in ROOT_PAGES:
        return ROOT_PAGES[path]
    return path.removeprefix("docs/") if path.startswith("docs/") else f"files/{path}"
