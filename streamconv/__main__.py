"""Run `python -m streamconv` like the command `streamconv`."""

import os
import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    # Python looks for modules in the working directory first, and that may be a checkpoint
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH120
    if sys.path[:1] != [root]:
        del sys.path[:1]

import signal


def main() -> None:
    """Run the command line. While it is imported, a signal ends the process at once."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from streamconv.cli import main as run

    run()


if __name__ == "__main__":
    main()
