"""Pickles are small, though they name and call the same things many times."""

from streamconv.formats.pickle_reader import read_pickle
from streamconv.formats.pickle_types import Object
from streamconv.formats.pickle_writer import write_pickle


def test_a_call_is_written_once() -> None:
    """However often it occurs: the sizes of 70,000 tensors are a few dozen."""
    size, chunk = Object("torch.Size", ((2, 3),)), Object("a.Chunk", (), {"of": None})
    once, again = (len(write_pickle([size] * count)) for count in (1, 100))
    assert again - once == 99 * len(b"h\x01")
    found = read_pickle(write_pickle([size, size, chunk]), ("torch.Size", "a.Chunk"), "it")
    assert found[0] is found[1]
    assert (found[0].name, found[0].args) == ("torch.Size", ((2, 3),))
