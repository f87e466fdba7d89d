"""The options that several commands have, and what is checked before any of them runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, Final

import click
import sqlalchemy as sa

from ..schema import check_names
from ..upgrade import make_url
from .failure import DEBUG, URL
from .target import Target, driven

EPILOG: Final = """\b
Exit codes: 0 done; 1 a check failed or nothing was found; 2 wrong usage;
3 the database cannot be used, or the table is missing (db check and doctor: 1).
"""


def _parsed(ctx: click.Context, _: click.Parameter, value: str | None) -> sa.URL | None:
    if value is None:
        return None
    try:
        url = ctx.meta[URL] = driven(make_url(value))
    except ValueError as error:
        raise click.UsageError(str(error), ctx) from None
    return url


def _noted(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta[DEBUG] = True


def _not_empty(ctx: click.Context, option: click.Parameter, value: str | None) -> str | None:
    if value is not None and not value.strip():
        raise click.BadParameter(f"it must not be empty or white space alone: leave {option.opts[0]} out", ctx)
    return value


of_whom = partial(click.option, callback=_not_empty)
"""Makes the option that says whose: an empty one is a variable of a script that was not set."""
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


yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


def sure(question: str, yes: bool) -> None:
    """Ask a person at a terminal, and end the command at a no. A script that wrote the command down has answered."""
    if not yes and sys.stdin.isatty():
        click.confirm(question, abort=True, err=True)
