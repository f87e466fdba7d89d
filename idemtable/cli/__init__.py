"""The command line: thin commands over plain functions.

Exit codes:

==  ==================================================================================================================
0   Done. A purge that leaves because another one is at work is done too (``busy`` in its line says so), and so is one
    that was asked to stop.
1   A check failed, a promise of the demo was broken, there is no record of the key, or somebody said no.
2   The command is wrong: an option, a name, a key, a URL that cannot be.
3   The database cannot be used: not reachable, its driver not installed, the table missing or not as it should be.
==  ==================================================================================================================

Results go to stdout, everything about them to stderr. No password is ever printed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..dialects import known
from ..model import Record
from . import runner, text
from .failure import Commands, Failure, failure
from .target import EPILOG, Target, as_json, debug, names, on_database, url_option
from .tokens import tokens

if TYPE_CHECKING:
    import sqlalchemy as sa

    from ..table import IdemTable

_HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

tenant_option = click.option("--tenant", help="The key's tenant.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")
to_option = partial(click.option, "--to", type=click.IntRange(min=0), metavar="STEP")
from_option = partial(click.option, "--from", "frm", type=click.IntRange(min=0), metavar="STEP")
create_schema_option = click.option("--create-schema", is_flag=True, help="Also create --schema when it is missing.")


@click.group(cls=Commands, context_settings=_HELP, epilog=EPILOG)
@click.version_option(package_name="idemtable")
@debug
def main() -> None:
    """Look after the table of keys.

    The database is given by --url or IDEMTABLE_URL, as SQLAlchemy writes it: postgresql+psycopg://user@host/name,
    mysql+pymysql://user@host/name, sqlite:///file.db. The URL of an async driver will do too.
    """


main.add_command(tokens)


def _sure(question: str, yes: bool) -> None:
    # Only a person can answer; a script that wrote the command down has.
    if not yes and sys.stdin.isatty():
        click.confirm(question, abort=True, err=True)


# --- db: the table itself -------------------------------------------------------------------------------------------


@main.group(epilog=EPILOG)
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
        _sure(f"Drop the table {target.table}, and let every request in it run again?", yes)
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


# --- the records in it ----------------------------------------------------------------------------------------------


@main.command(epilog=EPILOG)
@click.option("--every", type=text.duration, metavar="TIME",
              help="Keep running, a round each 15m, 1h, 1d, until SIGTERM or SIGINT.")  # fmt: skip
@click.option("--batch", type=click.IntRange(1, 100_000), default=5_000, show_default=True,
              help="Rows for each transaction.")  # fmt: skip
@click.option("--limit", type=click.IntRange(min=1), help="Rows for each round.")
@as_json
@on_database
def purge(target: Target, every: timedelta | None, batch: int, limit: int | None, as_json: bool) -> None:
    """Delete expired records in short transactions.

    One runner at a time: while another is at work this one leaves (exit code 0, "busy": true). A signal ends it after
    the batch it is in, with exit code 0.
    """
    idem = target.keys()

    def once() -> None:
        try:
            with _bar(idem, limit) as shown:
                report = runner.purge(partial(idem.purge, batch=batch, limit=limit), stop, shown)
        finally:
            # A connection that is idle for an hour is cut by the next firewall.
            idem._settings.engine.dispose()
        if as_json:
            click.echo(text.line(asdict(report) | {"stopped": stop.asked}))
        elif report.busy:
            click.echo("another purge is at work: nothing deleted")
        else:
            how = f"in {report.batches} batch{'es' if report.batches != 1 else ''}, {report.seconds:.2f} s"
            click.echo(f"deleted {report.deleted:,} expired records {how}")

    with runner.Stop() as stop:
        if every is None:
            once()
        else:
            runner.repeat(once, every, stop, lambda error: failure(error, target.url).show())


@contextmanager
def _bar(idem: IdemTable, limit: int | None) -> Iterator[Any]:
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    total = min(idem.stats().expired, limit or sys.maxsize)
    with click.progressbar(length=total, label="purge", file=sys.stderr, show_pos=True) as bar:
        yield lambda deleted: bar.update(deleted - bar.pos)


@main.command(epilog=EPILOG)
@click.argument("scope", required=False)
@click.option("--limit", type=click.IntRange(1, 100_000), default=20, show_default=True, help="How many.")
@as_json
@on_database
def ls(target: Target, scope: str | None, limit: int, as_json: bool) -> None:
    """List the newest records, of one scope or of all."""
    text.show(target.keys().records(scope, limit=limit), as_json, "no records")


@main.command(epilog=EPILOG)
@click.argument("scope")
@click.argument("key")
@tenant_option
@as_json
@on_database
def show(target: Target, scope: str, key: str, tenant: str | None, as_json: bool) -> None:
    """Show the record of one key; exit code 1 if there is none."""
    record = _found(target.keys(), scope, key, tenant)
    click.echo(text.record_line(record) if as_json else text.record_facts(record))


@main.command(epilog=EPILOG)
@click.argument("scope")
@click.argument("key")
@tenant_option
@yes_option
@on_database
def forget(target: Target, scope: str, key: str, tenant: str | None, yes: bool) -> None:
    """Remove the record of one key, so that its next use runs again; asks first on a terminal."""
    idem = target.keys()
    record = _found(idem, scope, key, tenant)
    _sure(f"{text.record_facts(record)}\nForget it, and let this request run again?", yes)
    if not idem.forget(scope, key, tenant=tenant):
        raise Failure("somebody else removed it first")
    click.echo("forgotten")


def _found(idem: IdemTable, scope: str, key: str, tenant: str | None) -> Record:
    record = idem.get(scope, key, tenant=tenant)
    if record is None:
        hint = "with this tenant" if tenant is not None else "without a tenant (--tenant names one)"
        raise Failure(f"there is no record of this key in the scope {scope} {hint}")
    return record


@main.command(epilog=EPILOG)
@as_json
@on_database
def stats(target: Target, as_json: bool) -> None:
    """Count the records by scope and status."""
    found = target.keys().stats()
    click.echo(text.stats_line(found) if as_json else text.stats_facts(found))


@main.command(epilog=EPILOG)
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

    if url is not None:
        url = Target(url, "idemtable_demo", None).engine().url
    sys.exit(0 if demonstration.run(url, **options) else Failure.exit_code)
