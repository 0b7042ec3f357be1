"""The options of functions that write a checkpoint."""

from typing import TYPE_CHECKING

from streamconv.options import Options

if TYPE_CHECKING:
    from streamconv.api.events import OnEvent


class RunOptions(Options, total=False):
    """Options that say how a conversion is carried out."""

    overwrite: bool
    """True to replace `dst` after its replacement is complete."""
    resume: bool
    """True to resume an earlier run of this conversion, if there was one."""
    verify: bool
    """True to verify the result against `src` before it is moved to `dst`."""
    on_event: "OnEvent | None"
    """Called with each event of the run, in the calling thread."""
