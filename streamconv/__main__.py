"""Run `python -m streamconv` like the command `streamconv`."""

import signal


def main() -> None:
    """Run the command line. While it is imported, a signal ends the process at once."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from streamconv.cli import main as run

    run()


if __name__ == "__main__":
    main()
