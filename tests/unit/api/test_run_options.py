"""The options of a run are those of every conversion, and four more."""

from streamconv.api.option_docs import meanings
from streamconv.api.run_options import RunOptions
from streamconv.options import Options


def test_options_of_a_run() -> None:
    added = RunOptions.__annotations__.keys() - Options.__annotations__.keys()
    assert added == {"overwrite", "resume", "verify", "on_event"}
    assert not RunOptions.__required_keys__


def test_every_option_has_a_meaning() -> None:
    """In the order of the fields, so that help lists related options together."""
    assert [name for name, _ in meanings(RunOptions)] == [*RunOptions.__annotations__]
