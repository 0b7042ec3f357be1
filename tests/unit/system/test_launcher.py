"""What torchrun says in the environment, and what a process takes for it if torchrun did not."""

import pytest

from streamconv.system import launcher

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "8",
    "LOCAL_WORLD_SIZE": "4",
    "TORCHELASTIC_RUN_ID": "job-7",
    "TORCHELASTIC_RESTART_COUNT": "2",
    "MASTER_ADDR": "node-1",
}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)


def set_all(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def test_a_rank_of_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, **TORCHRUN)
    assert (launcher.rank(), launcher.world_size(), launcher.ranks_on_host()) == (3, 8, 4)
    assert (launcher.run_id(), launcher.restart_count()) == ("job-7", 2)
    assert launcher.store_host() == "node-1"


def test_a_process_alone() -> None:
    assert (launcher.rank(), launcher.world_size(), launcher.ranks_on_host()) == (None, 1, 1)
    assert launcher.restart_count() == 0
    assert launcher.store_host() == "rank 0's host"
    with pytest.raises(KeyError):
        launcher.run_id()


def test_a_rank_of_another_launcher_runs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """mpirun and Slurm set RANK too, but keep no store."""
    set_all(monkeypatch, RANK="1", WORLD_SIZE="2")
    assert launcher.rank() is None


def test_the_only_rank_of_torchrun_runs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, **TORCHRUN | {"RANK": "0", "WORLD_SIZE": "1"})
    assert launcher.rank() is None


@pytest.mark.parametrize("text", ["", "0", "-1", "two", "2(x2)", "9" * 5000])
def test_an_odd_number_of_ranks_on_a_host_counts_as_one(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", text)
    assert launcher.ranks_on_host() == 1
