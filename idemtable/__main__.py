"""``python -m idemtable``, where the command is not on the PATH."""

from .cli import main

main(prog_name="idemtable")
