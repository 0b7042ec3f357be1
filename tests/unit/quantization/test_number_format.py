"""The table of number formats is read as its comment says."""

from streamconv.quantization.number_format import (
    Axis,
    activation_words,
    named_formats,
    number_formats,
    part_words,
)


def test_every_format_has_codes_and_scales() -> None:
    for name, row in number_formats().items():
        assert row.name == name
        assert row.codes.role == "codes"
        assert row.codes.axes
        assert row.others[0].role == "scale"
        assert row.part("scale") is row.others[0]
        assert row.part("no such role") is None


def test_axes() -> None:
    """Each is written as packed codes, a letter, and what one number covers."""
    axes = {axis for row in number_formats().values() for part in row.others for axis in part.axes}
    every = {axis for choice in axes for axis in choice}
    assert {axis.name for axis in every} <= {"o", "i", ""}
    packed = [row.codes.axes[0] for row in number_formats().values()]
    assert (Axis("o"), Axis("i")) in packed
    assert any(axis.packed == 8 for choice in packed for axis in choice)


def test_words() -> None:
    """Those of parts are those of all formats, except that of plain weights."""
    assert "weight" not in part_words()
    assert {"weight_scale_inv", "qzeros", "weight_packed"} <= part_words()
    for row in (*number_formats().values(), *named_formats().values()):
        assert row.words - {"weight"} <= part_words()
    assert "input_scale" in activation_words()
    assert not activation_words() & part_words()


def test_a_format_that_is_known_by_name_is_loaded_nowhere() -> None:
    assert named_formats()
    assert not any(row.loads for row in named_formats().values())
    assert not named_formats().keys() & number_formats().keys()
