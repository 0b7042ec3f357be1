"""The table of keys in config.json names those that transformers has."""

import transformers

from streamconv.catalog.config_keys import config_keys


def test_the_keys_are_those_of_transformers() -> None:
    """What a configuration is saved with, and what its lists of layers are checked by."""
    config = transformers.Qwen3Config(num_hidden_layers=2, dtype="float32").to_dict()
    keys = config_keys()
    assert keys.dtype & config.keys()
    assert set(keys.layer_counts) & config.keys() == {"num_hidden_layers"}
    assert len(config["layer_types"]) == 2
    assert "layer_types" in keys.layer_lists
    assert set(keys.dtype_names.values()) >= {config["dtype"], "bfloat16"}


def test_no_key_says_two_things() -> None:
    keys = config_keys()
    groups = (keys.dtype, keys.quantization, keys.layer_counts, keys.layer_lists, keys.layers_after)
    assert len(set().union(*groups)) == sum(map(len, groups))
