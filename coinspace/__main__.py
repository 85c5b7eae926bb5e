"""`python -m coinspace` is the `coinspace` command."""

from coinspace.cli import main

main()
