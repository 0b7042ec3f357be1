"""Run `python -m streamconv` like the command `streamconv`."""

from streamconv.cli import main

if __name__ == "__main__":
    main()
