"""Which kind of source a location is."""

from pathlib import Path

import pytest
from folders import qwen_tensors, two_shards, write_checkpoint

from streamconv.errors import UsageError
from streamconv.sources.open import is_url, open_source
from streamconv.sources.remote import RemoteSource
from streamconv.sources.safetensors_folder import LocalSource


def test_urls() -> None:
    assert is_url("hf://org/name")
    assert is_url("s3://bucket/folder")
    assert not is_url("org/name")
    assert not is_url("/folder/C:x")


def test_a_path_and_a_url(tmp_path: Path) -> None:
    """Of the same folder."""
    folder = write_checkpoint(tmp_path / "source", two_shards(qwen_tensors()), {})
    assert isinstance(open_source(str(folder)), LocalSource)
    assert isinstance(open_source(folder.as_uri()), RemoteSource)


@pytest.mark.parametrize("location", ["hf://", "hf://a/b/c", "hf://org/a@"])
def test_a_location_that_names_no_repository(location: str) -> None:
    """Refused without a request."""
    with pytest.raises(UsageError) as caught:
        open_source(location)
    assert caught.value.message == f"cannot read {location}: it does not name a repository"


def test_a_url_that_nothing_opens() -> None:
    with pytest.raises(UsageError, match="cannot open nonsense://bucket/x: ") as caught:
        open_source("nonsense://bucket/x")
    assert caught.value.hint.startswith("run pip install 'streamconv[fsspec]'")
