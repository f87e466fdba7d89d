"""``idemtable demo``: what the library is for, to see with one's own eyes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from .failure import OWN_TABLES, Failure
from .options import EPILOG, debug, url_option
from .target import Target

if TYPE_CHECKING:
    import sqlalchemy as sa


@click.command(epilog=EPILOG)
@click.option("--workers", type=click.IntRange(2, 64), default=8, show_default=True, help="Processes at once.")
@click.option("--requests", type=click.IntRange(400, 1_000_000), default=4_000, show_default=True,
              help="Recorded requests.")  # fmt: skip
@click.option("--seed", type=int, default=1, show_default=True, help="Another seed, another recording.")
@click.option("--unprotected", is_flag=True, help="Without idemtable, to see what it is for; exit code 1.")
@url_option(required=False)
@debug
def demo(url: sa.URL | None, **options: Any) -> None:
    """Deliver recorded payment requests by many workers at once, kill one, and check the books.

    On a SQLite file of its own, or in tables of its own (idemtable_demo...) in the database at --url, which are dropped
    at the end. Exit code 1 if any promise was broken.
    """
    from .. import demo as demonstration

    click.get_current_context().meta[OWN_TABLES] = True
    if url is not None:
        url = Target(url, "idemtable_demo", None).engine.url
    sys.exit(0 if demonstration.run(url, **options) else Failure.exit_code)
