"""Values of config.json are found, and anything else in their place is ignored."""

from streamconv.checkpoint.config import MAX_DEPTH, config_members, config_value


def test_a_path_leads_through_sections() -> None:
    config = {"text_config": {"num_experts": 4}, "list": [1], "null": None}
    assert config_value(config, "text_config.num_experts") == 4
    assert config_value(config, "") == config
    for path in ("text_config.other", "other.num_experts", "list.0", "null.a"):
        assert config_value(config, path) is None


def test_members_at_any_depth() -> None:
    """In the order of the text; lists and descriptions of quantized weights are no sections."""
    config = {
        "a": {"b": {"c": 1}, "quantization_config": {"d": 2}},
        "list": [{"e": 3}],
        "f": None,
    }
    paths = [".".join(path) for path, _ in config_members(config)]
    assert paths == ["a", "a.b", "a.b.c", "a.quantization_config", "list", "f"]


def test_members_of_a_config_that_is_nested_without_end() -> None:
    """As deep as no config is, and no deeper."""
    config: dict[str, object] = {}
    for _ in range(2000):
        config = {"a": config}
    assert len(list(config_members(config))) == MAX_DEPTH
