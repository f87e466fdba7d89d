"""The command line: thin commands over plain functions.

Exit codes:

==  ==================================================================================================================
0   Done. A purge that leaves because another one is at work is done too (``busy`` in its line says so), and so is one
    that was asked to stop.
1   A check failed, a promise was broken, something needs mending, there is no record of the key, or somebody said no.
2   The command is wrong: an option, a name, a key, a URL that cannot be.
3   The database cannot be used: not reachable, read-only, its driver not installed, the table missing or not as it should
    be (of which ``db check`` and ``doctor`` make 1).
==  ==================================================================================================================

Results go to stdout, everything about them to stderr. No password is ever printed.
"""

from __future__ import annotations

import click

from . import checks, db, demo, records, tokens
from .failure import Commands
from .options import EPILOG, debug

_HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(cls=Commands, context_settings=_HELP, epilog=EPILOG)
@click.version_option(package_name="idemtable")
@debug
def main() -> None:
    """Look after the table of keys.

    The database is given by --url or IDEMTABLE_URL, as SQLAlchemy writes it: postgresql+psycopg://user@host/name,
    mysql+pymysql://user@host/name, sqlite:///file.db. The URL of an async driver will do too.
    """


_records = (records.purge, records.ls, records.show, records.forget, records.stats)
for _command in (db.db, *_records, tokens.tokens, checks.verify, checks.doctor, demo.demo):
    main.add_command(_command)
