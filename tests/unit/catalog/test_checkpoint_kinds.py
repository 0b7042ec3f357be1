"""The table of kinds of checkpoints."""

from streamconv.catalog.checkpoint_kinds import checkpoint_kinds


def test_every_row_says_what_it_is() -> None:
    """In a sentence without its end; what is to be done begins with a verb."""
    names = [kind.name for kind in checkpoint_kinds()]
    assert len({*names}) == len(names)
    for kind in checkpoint_kinds():
        assert kind.says.startswith(("a ", "an "))
        assert not kind.says.endswith(".")
        assert kind.way == "" or kind.way.split()[0] in ("merge", "export")
