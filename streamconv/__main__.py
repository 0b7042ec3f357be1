"""`python -m streamconv` is the command `streamconv`."""

from streamconv.cli import main

if __name__ == "__main__":
    main()
