"""`python -m traghetto` is the same as `traghetto`."""

from traghetto.cli import main

main()
