"""The local cache of huggingface_hub: where a repository is in it, and its snapshots.

models--org--name/refs/main                          the commit of a branch
models--org--name/snapshots/COMMIT/config.json       a file, or a link to a blob
models--org--name/blobs/SHA256
"""

from pathlib import Path

from streamconv.errors import BadCheckpoint, quoted
from streamconv.system.environment_files import opens_at_once


def cache_paths(repo: str, revision: str, commit: str) -> tuple[Path, ...]:
    """Return the paths of the cache that a commit of a repository is read from.

    Any of them may be missing, and any may be a link to somewhere else.

    Args:
        repo: The repository, as `org/name`.
        revision: A branch, a tag or a commit.
        commit: The commit that the revision is at.
    """
    folder = _repository(repo)
    return folder / "snapshots" / commit, folder, _ref(folder, revision)


def cached_snapshot(repo: str, revision: str) -> Path:
    """Return the folder of a revision in the local cache.

    Raises BadCheckpoint if it is missing, or the file with its commit cannot be read.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    commit = str(_ref(_repository(repo), revision))
    if not opens_at_once(commit):
        raise BadCheckpoint(
            f"cannot read {quoted(repo)}: {quoted(commit)} in the hub's cache is not a regular "
            "file",
            "remove it, and download the repository again",
        )
    try:
        return Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        raise BadCheckpoint(
            f"cannot read {quoted(repo)}: offline mode is on, and revision {quoted(revision)} is "
            f"not in the cache {constants.HF_HUB_CACHE}",
            "unset HF_HUB_OFFLINE, or download the repository first",
        ) from None


def _repository(repo: str) -> Path:
    """Return the folder of a repository."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repo, repo_type="model"))


def _ref(folder: Path, revision: str) -> Path:
    """Return the file with the commit of a branch or tag, in the folder of a repository."""
    return folder / "refs" / revision
