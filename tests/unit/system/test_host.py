"""The host that the number of a process belongs to."""

import os
import platform
from pathlib import Path

import pytest

from streamconv.system import host
from streamconv.system.host import host_of_processes


@pytest.mark.parametrize("name", ["node17", "localhost", ""])
@pytest.mark.parametrize("namespace", [host.FIRST_PID_NAMESPACE, "pid:[4026532001]"])
def test_a_host_is_told_from_others(
    name: str, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name alone if that can; else what differs between containers, or from boot to boot."""
    monkeypatch.setattr(platform, "node", lambda: name)
    monkeypatch.setattr(os, "readlink", lambda _: namespace)
    monkeypatch.setattr(host, "BOOT_ID", tmp_path / "boot_id")
    (tmp_path / "boot_id").write_text("9f1c\n")
    words = [name]
    words += ["boot 9f1c"] if name != "node17" else []
    words += [namespace] if namespace != host.FIRST_PID_NAMESPACE else []
    assert host_of_processes() == " ".join(words)


def test_a_system_that_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has its name."""
    monkeypatch.setattr(platform, "node", lambda: "localhost")
    for path in ("BOOT_ID", "PID_NAMESPACE"):
        monkeypatch.setattr(host, path, tmp_path / "not there")
    assert host_of_processes() == "localhost"
