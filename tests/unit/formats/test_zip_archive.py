"""Archives that are built around a payload, read by the zipfile of the standard library."""

import io
import zipfile

import pytest

from streamconv.formats.zip_archive import ALIGNMENT, FOLDER, around_payload

FILES = {"data.pkl": b"\x80\x02.", "byteorder": b"little", "empty": b""}


def opened(raw: bytes) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(raw))


@pytest.mark.parametrize("payload", [b"", b"x", b"12345" * 1000])
def test_files_and_payload(payload: bytes) -> None:
    """All are stored as they are, in their order; the payload begins at a multiple of 64."""
    head, tail = around_payload(FILES, len(payload), "data/0")
    raw = head + payload + tail
    assert len(head) % ALIGNMENT == 0
    with opened(raw) as archive:
        assert archive.namelist() == [f"{FOLDER}/{name}" for name in (*FILES, "data/0")]
        for name, content in FILES.items():
            assert archive.read(f"{FOLDER}/{name}") == content
        info = archive.getinfo(f"{FOLDER}/data/0")
        assert (info.file_size, info.compress_type) == (len(payload), zipfile.ZIP_STORED)
        assert raw[len(head) :][: info.file_size] == payload


def test_no_payload() -> None:
    head, tail = around_payload(FILES, None, "data/0")
    with opened(head + tail) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [f"{FOLDER}/{name}" for name in FILES]


def test_only_the_size_of_the_payload_counts() -> None:
    """So head and tail can be written before the payload is known."""
    head, tail = around_payload(FILES, 5 * 2**30, "data/0")
    end = tail.rindex(b"PK\5\6")
    assert int.from_bytes(tail[end + 16 : end + 20], "little") == 0xFFFFFFFF
    wide = tail.index(b"PK\6\6")
    assert int.from_bytes(tail[wide + 48 : wide + 56], "little") == len(head) + 5 * 2**30
