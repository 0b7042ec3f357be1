"""Words that several tables share."""

from streamconv.checkpoint.types import OtherFile
from streamconv.report.table_parts import copied_files, counted


def test_a_number_with_its_noun() -> None:
    assert [counted(n, "shard") for n in (0, 1, 2, 12345)] == [
        "0 shards",
        "1 shard",
        "2 shards",
        "12,345 shards",
    ]


def test_only_copied_files_count() -> None:
    files = [OtherFile("a", 600), OtherFile("b", 500), OtherFile("c", 10**9, "too large")]
    assert copied_files(files) == "2 files copied, 1.10 kB"
