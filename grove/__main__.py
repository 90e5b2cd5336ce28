"""`python -m grove` is the command `grove`."""

from grove.cli import main

if __name__ == "__main__":
    main()
