"""Keys of a DCP and names lead to each other; presets are found by their names."""

import pytest

from streamconv.catalog.presets import Prefixes, find_preset, presets
from streamconv.errors import UsageError


@pytest.mark.parametrize(
    ("prefixes", "name", "key"),
    [
        (Prefixes(), "lm_head.weight", "lm_head.weight"),
        (Prefixes("", "model."), "lm_head.weight", "model.lm_head.weight"),
        (Prefixes("thinker.", ""), "thinker.a", "a"),
        (Prefixes("thinker.", "net."), "thinker.a", "net.a"),
        (Prefixes("thinker.", "net."), "other.a", "other.a"),
    ],
)
def test_names_and_keys(prefixes: Prefixes, name: str, key: str) -> None:
    assert prefixes.apply(name) == key
    assert prefixes.undo(key) == name
    assert prefixes.is_reversible(name)


def test_a_name_like_a_key_does_not_come_back() -> None:
    assert not Prefixes("thinker.", "net.").is_reversible("net.a")


def test_presets_are_found_by_name() -> None:
    for name, preset in presets().items():
        assert find_preset(name) is preset
        assert preset.name == name
    with pytest.raises(UsageError, match="no preset called 'mind'") as caught:
        find_preset("mind")
    assert "mindspeed" in caught.value.hint
