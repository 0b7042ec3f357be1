"""Cores and memory that are left to a process in cgroups, by files as the kernel writes them."""

from pathlib import Path

import pytest

from streamconv.system.cgroups import cgroup_cores, cgroup_free, cgroup_limit

# --- cores --------------------------------------------------------------------------------------


def limit_cores(root: Path, version: int, path: str, quota: int | None, period: int) -> None:
    folder = root / ("cpu" if version == 1 else "") / path
    folder.mkdir(parents=True, exist_ok=True)
    if version == 2:
        (folder / "cpu.max").write_text(f"{'max' if quota is None else quota} {period}\n")
    else:
        (folder / "cpu.cfs_quota_us").write_text(f"{-1 if quota is None else quota}\n")
        (folder / "cpu.cfs_period_us").write_text(f"{period}\n")


@pytest.mark.parametrize("version", [1, 2])
def test_the_narrowest_quota_counts(version: int, tmp_path: Path) -> None:
    """Of the group and those above it; other groups and broken files do not count."""
    membership = tmp_path / "membership"
    membership.write_text("4:cpu,cpuacct:/jobs/one\n" if version == 1 else "0::/jobs/one\n")
    assert cgroup_cores(membership, tmp_path) is None
    limit_cores(tmp_path, version, "jobs/one", None, 100_000)
    assert cgroup_cores(membership, tmp_path) is None
    limit_cores(tmp_path, version, "jobs", 150_000, 100_000)
    limit_cores(tmp_path, version, "other", 10_000, 100_000)
    assert cgroup_cores(membership, tmp_path) == 1.5
    limit_cores(tmp_path, version, "", 50_000, 100_000)
    assert cgroup_cores(membership, tmp_path) == 0.5
    limit_cores(tmp_path, version, "", 50_000, 0)
    assert cgroup_cores(membership, tmp_path) == 1.5


# --- memory -------------------------------------------------------------------------------------

MB = 10**6
VERSIONS = {
    1: ("4:memory:/jobs/one\n0::/\n", "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    2: ("0::/jobs/one\n", "", "memory.max", "memory.current"),
}


def limit_memory(
    root: Path, version: int, path: str, limit: int | str, used: int, **stat: int
) -> None:
    """The files of one cgroup; `stat` are rows of memory.stat, of the group and those below."""
    _, controller, limit_file, used_file = VERSIONS[version]
    folder = root / controller / path
    folder.mkdir(parents=True, exist_ok=True)
    (folder / limit_file).write_text(f"{limit}\n")
    (folder / used_file).write_text(f"{used}\n")
    if version == 1:
        own = {name.removeprefix("file_"): 0 for name in stat}
        total = {f"total_{name.removeprefix('file_')}": size for name, size in stat.items()}
        stat = own | total
    rows = {"anon": 3, "shmem": 0, **stat}
    (folder / "memory.stat").write_text("".join(f"{k} {v}\n" for k, v in rows.items()))


def left(root: Path, version: int) -> int | None:
    membership = root / "membership"
    membership.write_text(VERSIONS[version][0])
    return cgroup_free(membership, root)


@pytest.mark.parametrize("version", VERSIONS)
def test_page_cache_is_free(version: int, tmp_path: Path) -> None:
    """A group of 512 MB that holds 500 MB of read files has room for a run."""
    cache = {"inactive_file": 400 * MB, "active_file": 90 * MB}
    limit_memory(tmp_path, version, "jobs/one", 512 * MB, 511 * MB, **cache)
    assert left(tmp_path, version) == 491 * MB


@pytest.mark.parametrize("version", VERSIONS)
def test_what_cannot_be_dropped_is_not_free(version: int, tmp_path: Path) -> None:
    """Memory of processes; pages that wait for the disk."""
    limit_memory(tmp_path, version, "jobs/one", 512 * MB, 500 * MB)
    assert left(tmp_path, version) == 12 * MB
    cache = {"inactive_file": 100 * MB, "file_dirty": 60 * MB, "file_writeback": 10 * MB}
    limit_memory(tmp_path, version, "jobs/one", 512 * MB, 500 * MB, **cache)
    assert left(tmp_path, version) == 42 * MB


@pytest.mark.parametrize("version", VERSIONS)
def test_the_narrowest_group_above_counts(version: int, tmp_path: Path) -> None:
    """Each with its own cache; a group without a limit is passed over."""
    unlimited: int | str = 2**63 - 4096 if version == 1 else "max"
    limit_memory(tmp_path, version, "jobs/one", unlimited, 10 * MB)
    limit_memory(tmp_path, version, "jobs", 300 * MB, 290 * MB, inactive_file=50 * MB)
    limit_memory(tmp_path, version, "", 900 * MB, 800 * MB, active_file=20 * MB)
    assert left(tmp_path, version) == 60 * MB


@pytest.mark.parametrize("version", VERSIONS)
def test_a_group_that_tells_nothing_is_passed_over(version: int, tmp_path: Path) -> None:
    """Without memory.stat everything used counts; without a limit there is no answer."""
    assert left(tmp_path, version) is None
    limit_memory(tmp_path, version, "jobs/one", 100 * MB, 30 * MB)
    for path in tmp_path.rglob("memory.stat"):
        path.unlink()
    assert left(tmp_path, version) == 70 * MB


def test_never_more_than_the_limit(tmp_path: Path) -> None:
    """The files are read one after another; the cache may have grown in between."""
    limit_memory(tmp_path, 2, "jobs/one", 100 * MB, 10 * MB, inactive_file=50 * MB)
    assert left(tmp_path, 2) == 100 * MB


@pytest.mark.parametrize("version", VERSIONS)
def test_the_least_limit_counts(version: int, tmp_path: Path) -> None:
    """However much is used, and of the memory of no other controller."""
    membership = tmp_path / "membership"
    membership.write_text(VERSIONS[version][0])
    assert cgroup_limit(membership, tmp_path) is None
    limit_memory(tmp_path, version, "jobs/one", 900 * MB, 899 * MB)
    limit_memory(tmp_path, version, "jobs", 300 * MB, 0)
    limit_memory(tmp_path, version, "other", 100 * MB, 0)
    limit_cores(tmp_path, version, "jobs", 5, 100_000)
    assert cgroup_limit(membership, tmp_path) == 300 * MB
