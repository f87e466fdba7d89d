"""``idemtable db``: the table itself."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..dialects import known
from .failure import Failure
from .options import EPILOG, names, on_database, sure, url_option, yes_option
from .target import Target

if TYPE_CHECKING:
    import sqlalchemy as sa

to_option = partial(click.option, "--to", type=click.IntRange(min=0), metavar="STEP")
from_option = partial(click.option, "--from", "frm", type=click.IntRange(min=0), metavar="STEP")
create_schema_option = click.option("--create-schema", is_flag=True, help="Also create --schema when it is missing.")


@click.group(epilog=EPILOG)
def db() -> None:
    """Create, change and check the table."""


@db.command(epilog=EPILOG)
@to_option(help="The step to go up to; the newest by default.")
@create_schema_option
@on_database
def upgrade(target: Target, to: int | None, create_schema: bool) -> None:
    """Create the table, or bring it up to date.

    Any number of programs may do this at once.
    """
    from .. import upgrade as steps

    ran = steps.upgrade(target.url, to=to, create_schema=create_schema, **target.names)
    click.echo(f"ran {_steps(ran)}" if ran else "nothing to do")


@db.command(epilog=EPILOG)
@to_option(default=0, show_default=True, help="The step to go down to; 0 drops the table with every key in it.")
@yes_option
@on_database
def downgrade(target: Target, to: int, yes: bool) -> None:
    """Take back the table's last steps; asks first on a terminal."""
    from .. import upgrade as steps

    if to == 0:
        sure(f"Drop the table {target.table}, and let every request in it run again?", yes)
    if target.no_file is not None:
        click.echo("nothing to do")
        return
    ran = steps.downgrade(target.url, to=to, **target.names)
    click.echo(f"took back {_steps(ran)}" if ran else "nothing to do")


def _steps(ran: tuple[int, ...]) -> str:
    return f"step{'s' if len(ran) > 1 else ''} {', '.join(map(str, ran))}"


@db.command(epilog=EPILOG)
@click.option("--dialect", type=click.Choice(list(known)), help="Instead of a URL.")
@from_option(default=0, show_default=True, help="The step the table is at.")
@to_option(help="The step to go to, up or down; the newest by default.")
@create_schema_option
@url_option(required=False)
@names
def sql(url: sa.URL | None, dialect: str | None, frm: int, to: int | None, create_schema: bool, **where: Any) -> None:
    """Print the script of the steps, without connecting."""
    from .. import upgrade as steps

    if dialect is None and url is None:
        raise click.UsageError("give --dialect, or a database by --url or IDEMTABLE_URL")
    click.echo(steps.sql(dialect or url, frm=frm, to=to, create_schema=create_schema, **where), nl=False)  # type: ignore[arg-type]


@db.command(epilog=EPILOG)
@on_database
def check(target: Target) -> None:
    """Say whether the table is as this version of idemtable needs it.

    Exit code 1, with what is wrong and the cure, if it is not.
    """
    from .. import upgrade as steps

    if (missing := target.no_file) is not None:
        raise Failure(missing)
    problems = steps.check(target.url, **target.names)
    if problems:
        raise Failure(". ".join(["; ".join(problems[:-1]), problems[-1]]))
    click.echo("the table is as it should be")


@db.command(epilog=EPILOG)
@click.option("--directory", type=click.Path(exists=True, file_okay=False, path_type=Path), default=".",
              show_default=True, help="Your project, with its alembic.ini or pyproject.toml.")  # fmt: skip
@from_option(help="The step your revisions go to already; found in them by default.")
@to_option(help="The step to go up to; the newest by default.")
@click.option("--print", "only_print", is_flag=True, help="Print the revision instead of writing it.")
@create_schema_option
@names
def revision(directory: Path, frm: int | None, to: int | None, only_print: bool, **options: Any) -> None:
    """Write a revision with the missing steps into your own Alembic project."""
    from .. import upgrade as steps

    if only_print:
        click.echo(steps.revision_text(to=to, frm=frm or 0, **options), nl=False)
    else:
        click.echo(steps.revision(directory=directory, to=to, frm=frm, **options))
