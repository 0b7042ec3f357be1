"""How `--quantize` stores a weight: names, scales, and what is refused."""

import pytest

from streamconv.catalog.encodings import encoding_names, encoding_row
from streamconv.errors import UsageError


@pytest.mark.parametrize("name", encoding_names())
def test_codes_come_first_and_the_config_names_the_method(name: str) -> None:
    row = encoding_row(name)
    assert (row.name, row.parts[0].role) == (name, "codes")
    assert {"codes", "scale"} <= {part.role for part in row.parts}
    assert "quant_method" in row.config
    assert row.most > 0


def test_an_option_changes_what_it_names_and_nothing_else() -> None:
    """FP8 in blocks of 128, as DeepSeek-V3 has it: scales of F32, or powers of two in a byte."""
    plain, powers = encoding_row("fp8-block"), encoding_row("fp8-block", "ue8m0")
    assert (plain.block, powers.block) == ((128, 128), (128, 128))
    assert (plain.powers, plain.most) == ("", 448)
    assert powers.powers
    assert [p for p in plain.parts if p.role == "codes"] == [
        p for p in powers.parts if p.role == "codes"
    ]
    assert plain.config.items() <= powers.config.items()


def test_what_is_not_known_lists_what_is() -> None:
    with pytest.raises(UsageError, match="cannot quantize to 'fp7'") as caught:
        encoding_row("fp7")
    assert "fp8-block" in caught.value.hint
    with pytest.raises(UsageError, match="fp8-block the scales 'bf16'") as caught:
        encoding_row("fp8-block", "bf16")
    assert caught.value.hint == "choose from f32, ue8m0"
    other = next(name for name in encoding_names() if name != "fp8-block")
    with pytest.raises(UsageError) as caught:
        encoding_row(other, "f32")
    assert caught.value.hint == "leave out --scale"
