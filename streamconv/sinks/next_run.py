"""How people go on after a run that was refused or has ended early, in the words of hints."""

from dataclasses import dataclass

START_OVER_ALL = "remove that folder, and start over with all parts"
"""No part can replace the folder, because other parts have shards in it."""


@dataclass(frozen=True, slots=True)
class NextRun:
    """The words of hints for one way to run a conversion."""

    resume: str
    """How to keep the finished shards."""
    replace: str
    """How to go on if the target is not empty."""
    correct: str
    """How to keep the finished shards, if they belong to another conversion."""
    start_over: str
    """How to make all of it again."""
    is_finish: bool = False
    """True for `streamconv finish`, which has no options that change the conversion."""


RUN = NextRun(
    resume="run the same command with --resume",
    replace="name another folder, or add --overwrite to replace it",
    correct="run with the options of that conversion",
    start_over="start over with --overwrite, without --resume",
)
PART = NextRun(RUN.resume, RUN.replace, RUN.correct, START_OVER_ALL)
FINISH = NextRun(
    resume="run `streamconv finish` again",
    replace="look at it, move it elsewhere, and run `streamconv finish` again",
    correct="undo what has changed since the last part",
    start_over=START_OVER_ALL,
    is_finish=True,
)
