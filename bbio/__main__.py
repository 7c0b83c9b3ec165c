"""`python -m bbio` is the command `bbio`."""

from bbio.cli import main

main()
