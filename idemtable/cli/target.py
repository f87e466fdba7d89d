"""From the URL a person gave to an engine: drivers, files and names checked before anything is sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from importlib.util import find_spec
from typing import Any, Final

import click
import sqlalchemy as sa

from ..dialects import known, named
from ..errors import SchemaError
from ..schema import check_names
from ..table import IdemTable
from ..upgrade import make_url
from .failure import DEBUG, URL

EPILOG: Final = """\b
Exit codes: 0 done; 1 a check failed or nothing was found; 2 wrong usage;
3 the database cannot be reached, or the table is missing.
"""


@dataclass(frozen=True, slots=True)
class Target:
    """Which table in which database."""

    url: sa.URL
    """With a driver. It may be an async one, which ``idemtable.upgrade`` takes as it is."""
    table: str
    schema: str | None

    @property
    def names(self) -> dict[str, Any]:
        """The table's and the schema's name, as functions take them."""
        return {"table": self.table, "schema": self.schema}

    @property
    def no_file(self) -> str | None:
        """What to say where the URL's file does not exist; ``None`` if it does, or the database is no file."""
        database = known.get(self.url.get_backend_name())
        name = None if database is None else database.missing_file(self.url)
        return None if name is None else f"there is no file {name}. `idemtable db upgrade` creates it, with the table"

    def keys(self) -> IdemTable:
        """Give the table of keys, ready for its verbs.

        Raises:
            SchemaError: a file that does not exist; connecting would create it, empty.
            ImportError: the driver is not installed.
        """
        if (missing := self.no_file) is not None:
            raise SchemaError(missing)
        engine = self.engine()
        click.get_current_context().call_on_close(engine.dispose)
        return IdemTable(engine, **self.names)

    def engine(self) -> sa.Engine:
        """Give an engine with a sync driver, in the async one's place if need be."""
        return sa.create_engine(_sync(self.url), pool_pre_ping=True, pool_size=1)


def _driven(url: sa.URL) -> sa.URL:
    """Name a driver where the URL names none: the default of SQLAlchemy differs between its versions."""
    backend = url.get_backend_name()
    for name, database in known.items():
        if backend in database.mistaken:
            raise ValueError(f"this URL begins with {backend}://, which SQLAlchemy does not take: write {name}://")
    if "+" in url.drivername or backend not in known:
        return url
    return url.set(drivername=f"{backend}+{known[backend].drivers[0].name}")


def _sync(url: sa.URL) -> sa.URL:
    driver = named(url.get_backend_name()).drivers[0]
    if not url.get_dialect().is_async:
        return url
    if find_spec(driver.module) is None:
        lacks = f"is async and its sync sibling {driver.name} is not installed"
        raise ImportError(f"{url.get_driver_name()} {lacks}: {driver.cure}")
    return url.set(drivername=f"{url.get_backend_name()}+{driver.name}")


def _parsed(ctx: click.Context, _: click.Parameter, value: str | None) -> sa.URL | None:
    if value is None:
        return None
    try:
        url = ctx.meta[URL] = _driven(make_url(value))
    except ValueError as error:
        raise click.UsageError(str(error), ctx) from None
    if "@" in (url.host or ""):
        # Refused here, because a driver would look for that host and repeat half a password in its error.
        raise click.UsageError("an @ in the password must be written as %40", ctx)
    return url


def _noted(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta[DEBUG] = True


as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
debug = click.option(
    "--debug", is_flag=True, expose_value=False, is_eager=True, callback=_noted, help="Show an error's traceback."
)


def names(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that every command about the table has, which are checked before anything else."""

    @click.option("--table", envvar="IDEMTABLE_TABLE", default="idemtable", show_default=True, show_envvar=True,
                  help="The table's name.")  # fmt: skip
    @click.option("--schema", envvar="IDEMTABLE_SCHEMA", show_envvar=True, help="The table's schema.")
    @debug
    @wraps(command)
    def wrapped(*args: Any, table: str, schema: str | None, **options: Any) -> Any:
        check_names(table, schema)
        return command(*args, table=table, schema=schema, **options)

    return wrapped


def url_option(*, required: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make the option --url; a password is better in the environment, where ``ps`` does not show it."""
    text = "The database; better given in the environment, for `ps` shows what is typed here."
    return click.option(
        "--url", envvar="IDEMTABLE_URL", required=required, show_envvar=True, callback=_parsed, metavar="URL", help=text
    )


def on_database(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --url, --table, --schema and --debug to a command, which gets a `Target` first."""

    @url_option()
    @names
    @wraps(command)
    def wrapped(*args: Any, url: sa.URL, table: str, schema: str | None, **options: Any) -> Any:
        return command(Target(url, table, schema), *args, **options)

    return wrapped
