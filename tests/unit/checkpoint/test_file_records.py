"""Rows of pieces and names of files, as manifests and journals have them."""

import pytest

from streamconv.checkpoint.file_records import PieceRows, parse_piece, piece_row, printable

HEX = "0123456789abcdef" * 2


@pytest.mark.parametrize("row", [None, 5, "", "5", f"5{HEX}", f"05 {HEX}", f"-5 {HEX}", f"{HEX} 5"])
def test_rows_of_pieces(row: object) -> None:
    assert parse_piece(piece_row(5, HEX)) == (5, HEX)
    assert parse_piece(piece_row(0, HEX)) == (0, HEX)
    with pytest.raises(ValueError, match="not a piece"):
        parse_piece(row)


def test_names_that_are_not_utf8() -> None:
    assert printable("a/b.txt") == "a/b.txt"
    assert printable(b"\xff.txt".decode("utf-8", "surrogateescape")) == "\\xff.txt"


def test_rows_of_pieces_are_those_of_a_tuple() -> None:
    """They have no hash, as that of a tuple would be another."""
    rows = (f"6 {HEX}", f"4 {HEX}")
    packed = PieceRows(rows)
    assert (packed, len(packed), tuple(packed)) == (rows, 2, rows)
    assert packed != rows[:1]
    assert (PieceRows(()), len(PieceRows(()))) == ((), 0)
    assert PieceRows(["a"]) != "a"
    with pytest.raises(TypeError, match="unhashable"):
        hash(packed)
