"""``idemtable db``: the table itself."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ..dialects import full_name, known
from ..schema import STEP
from ..upgrade import place
from .failure import Failure, Wrong
from .options import EPILOG, names, on_database, sure, url_option, yes_option
from .target import Target, refuse_schema

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

    if target.in_memory:
        raise Wrong("a database in memory is gone when this command ends: name a file, such as sqlite:///shop.db")
    ran = steps.upgrade(target.url, to=to, create_schema=create_schema, **target.names)
    done = "is up to date" if to in (None, STEP) else f"is not below step {to}"
    click.echo(f"ran {_steps(ran)} on {target.place}" if ran else f"nothing to do: {target.place} {done}")


@db.command(epilog=EPILOG)
@to_option(default=0, show_default=True, help="The step to go down to; 0 drops the table with every key in it.")
@yes_option
@on_database
def downgrade(target: Target, to: int, yes: bool) -> None:
    """Take back the table's last steps; asks first on a terminal."""
    from .. import upgrade as steps

    if to == 0:
        sure(f"Drop {target.place}, and let every request in it run again?", yes)
    ran = () if target.no_file is not None else steps.downgrade(target.url, to=to, **target.names)
    none = "does not exist" if to == 0 else f"is not above step {to}"
    click.echo(f"took back {_steps(ran)} of {target.place}" if ran else f"nothing to do: {target.place} {none}")


def _steps(ran: tuple[int, ...]) -> str:
    return f"step{'s' if len(ran) > 1 else ''} {', '.join(map(str, ran))}"


@db.command(epilog=EPILOG)
@click.option("--dialect", type=click.Choice(list(known)), help="Instead of a URL.")
@from_option(default=0, show_default=True, help="The step the table is at.")
@to_option(help="The step to go to, up or down; the newest by default.")
@create_schema_option
@click.option("--grants", "roles", multiple=True, is_flag=False, flag_value="", metavar="[JOB=]ROLE",
              help="Print instead what a role needs for its job: app (the default), purge or migrate.")  # fmt: skip
@url_option(required=False)
@names
def sql(
    url: sa.URL | None,
    dialect: str | None,
    frm: int,
    to: int | None,
    create_schema: bool,
    roles: tuple[str, ...],
    **where: Any,
) -> None:
    """Print the script of the steps, or of the roles' rights, without connecting.

    --grants may be given several times; alone, it prints the rights of a role for each job, with names to be replaced.
    """
    from .. import upgrade as steps

    database: Any = dialect or url
    if database is None:
        raise click.UsageError("give --dialect, or a database by --url or IDEMTABLE_URL")
    refuse_schema(dialect or database.get_backend_name(), where["schema"])
    if roles:
        asked = [job for role in roles for job in ([_job(role)] if role else _EXAMPLES)]
        click.echo(steps.grants(database, asked, **where), nl=False)
        return
    script = steps.sql(database, frm=frm, to=to, create_schema=create_schema, **where)
    if frm == (STEP if to is None else to):
        click.echo(f"nothing to do from step {frm} to step {frm}", err=True)
    else:
        click.echo(script, nl=False)


_EXAMPLES: Final = (("migrate", "idemtable_migrate"), ("app", "idemtable_app"), ("purge", "idemtable_purge"))


def _job(role: str) -> tuple[str, str]:
    job, given, name = role.partition("=")
    return (job, name) if given else ("app", role)


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
        raise Failure(f"{place(target.url)}: {'; '.join(problems[:-1])}. {problems[-1]}")
    click.echo(f"{target.place} is as it should be")


@db.command(epilog=EPILOG)
@click.option("--directory", type=click.Path(exists=True, file_okay=False, path_type=Path), default=".",
              show_default=True, help="Your project: where alembic.ini, pyproject.toml or migrations is.")  # fmt: skip
@click.option("--head", metavar="REV", help="The head to go on from, in a project that has several.")
@from_option(help="The step your revisions go to already; found in them by default.")
@to_option(help="The step to go up to; the newest by default.")
@click.option("--print", "only_print", is_flag=True, help="Print the revision instead of writing it.")
@create_schema_option
@names
def revision(directory: Path, frm: int | None, only_print: bool, **options: Any) -> None:
    """Write a revision with the missing steps into your own Alembic project; Flask-Migrate's is one too."""
    from .. import upgrade as steps

    try:
        if only_print:
            click.echo(steps.revision_text(frm=frm or 0, **options), nl=False)
        else:
            click.echo(steps.revision(directory=directory, frm=frm, **options))
    except steps.NothingToWrite as nothing:
        table = f"{full_name(options['table'], options['schema'])} in {directory}"
        click.echo(f"nothing to do for the table {table}: {nothing}", err=True)
