"""`python -m grove` is the command `grove`."""

from grove.cli import main

main()
