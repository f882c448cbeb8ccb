"""`python -m bench.world`: the same commands as `python -m bench world`."""

from bench.world.cli import main

main()
