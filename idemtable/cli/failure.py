"""From what went wrong to one line that names the cure, and an exit code."""

from __future__ import annotations

import io
import re
import socket
import sys
import traceback
from collections.abc import Iterable, Iterator
from typing import Any, Final
from urllib.parse import quote, quote_plus

import click
import sqlalchemy as sa

from ..dialects import Driver, Fault, known, untried
from ..errors import IdempotencyError, SchemaError, SessionNotUsableError
from ..upgrade import place

URL: Final = "idemtable.url"
DEBUG: Final = "idemtable.debug"
OWN_TABLES: Final = "idemtable.own_tables"
"""Where the options leave what the handler of errors needs, in click's ``Context.meta``."""

_CONNECTING: Final = (sa.exc.OperationalError, sa.exc.InterfaceError)

_NO_WRITES: Final = ". It takes no writes: name the primary in --url or IDEMTABLE_URL, or make it take them"
_CURES: Final = {
    Fault.DENIED: ". `idemtable db sql --grants` prints what each role needs",
    Fault.READ_ONLY: _NO_WRITES,
    Fault.ELSEWHERE: _NO_WRITES,
    Fault.BUSY: ". Somebody else is at work there: try again",
}
_OF_FILES: Final = {
    Fault.READ_ONLY: ". It takes no writes: take mode=ro out of the URL, or let this user write to the file and its folder",
}
_OF_OWN_TABLES: Final = {
    Fault.DENIED: ". It makes tables of its own and drops them again: name in --url or IDEMTABLE_URL a role that may",
}
_UNREACHED: Final = ". Check --url or IDEMTABLE_URL, and that it is up"
_UNOPENED: Final = ". Check that the folder in --url or IDEMTABLE_URL is there, and that this user may write to it"

# Greedy up to the last @: one that was not escaped belongs to the password.
_IN_URL: Final = re.compile(r"(://[^\s:/@]*:)\S*@")
_A_URL: Final = re.compile(r"\w[\w+]*://[^\s,].*?(?=['\")]*\.?$)", re.DOTALL)
_SECRET_OPTION: Final = re.compile("pas|pw|key|secret|token", re.IGNORECASE)


class Failure(click.ClickException):
    """The one line a person gets, and the exit code a program gets: not done, or not found."""

    exit_code = 1


class Wrong(Failure):
    """The command cannot be."""

    exit_code = 2


class Unusable(Failure):
    """The database, its driver or its table is not there."""

    exit_code = 3


class Commands(click.Group):
    """A group whose commands end in one line on stderr instead of a traceback, without any password."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, and turn what it raises into a `Failure`."""
        if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
            sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: one key shall not keep all from being listed
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            text = error.message
            if isinstance(error, click.UsageError):
                # click repeats a word that it did not expect, and somebody's URL may be that word.
                text = _A_URL.sub("***", text)
            vars(error)["message"] = masked(text, ctx.meta.get(URL))
            raise
        except (click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            if ctx.meta.get(DEBUG):
                click.echo(masked("".join(traceback.format_exception(error)), ctx.meta.get(URL)), err=True)
            raise failure(error, ctx.meta.get(URL), own_tables=OWN_TABLES in ctx.meta) from None


def failure(error: Exception, url: sa.URL | None, *, own_tables: bool = False) -> Failure:
    """Say what an error means to the person who typed the command.

    Args:
        error: that the command raised.
        url: of the database, if one was named.
        own_tables: whether the command makes tables that are not the library's.
    """
    kind, text = _explained(error, url, own_tables)
    return kind(" ".join(masked(text, url).split()))


def _explained(error: Exception, url: sa.URL | None, own_tables: bool) -> tuple[type[Failure], str]:
    if isinstance(error, SchemaError):
        return Unusable, str(error) if url is None else f"{place(url)}: {error}"
    other_driver = None
    if url is not None and url.get_backend_name() in known:
        other_driver = untried(url.get_backend_name(), url.get_driver_name())
    if isinstance(error, sa.exc.NoSuchModuleError):
        if other_driver is not None:
            return Wrong, other_driver
        *names, last = (f"{name}://" for name in known)
        return Wrong, f"no such database; a URL begins with {', '.join(names)} or {last}"
    if isinstance(error, ImportError):
        name = (error.name or "").partition(".")[0]
        cure = _cure(name) or other_driver
        return Unusable, f"the driver {name} is not installed: {cure}" if cure else str(error)
    if isinstance(error, SessionNotUsableError) and isinstance(error.__cause__, sa.exc.DBAPIError):
        error = error.__cause__  # what it tells a caller of its session is no matter to a person at a shell
    if _is_the_databases(error):
        said = _said(getattr(error, "orig", None) or error)
        where = f" at {place(url)}" if url is not None else ""
        unreached = not isinstance(error, sa.exc.DBAPIError) or isinstance(error, _CONNECTING)
        return Unusable, f"the database{where} says: {said}{_advice(error, url, own_tables, unreached)}"
    if isinstance(error, ValueError | TypeError):
        return Wrong, str(error)
    if isinstance(error, IdempotencyError | OSError) or type(error).__name__ == "CommandError":  # Alembic's own
        return Failure, str(error)
    if url is not None and (driver := _raising(error)) is not None:
        said = _said(error)
        cure = "pip install cryptography" if "cryptography" in said else "Check --url or IDEMTABLE_URL"
        return Unusable, f"the driver {driver}, on the way to {place(url)}, says: {said}. {cure}"
    text = f"{type(error).__name__}: {error}. This should not happen: run it again with --debug, and report it"
    return Failure, text


def _advice(error: Exception, url: sa.URL | None, own_tables: bool, unreached: bool) -> str:
    database = None if url is None else known.get(url.get_backend_name())
    if database is not None and (
        limit := database.time_limits.get(database.code(getattr(error, "orig", None) or error))
    ):
        return f". If that was its {limit}, give this role a longer one"
    meaning = None if database is None else database.numbered(error)
    is_file = database is not None and database.is_file
    cures = _CURES | (_OF_FILES if is_file else {}) | (_OF_OWN_TABLES if own_tables else {})
    if meaning in cures:
        return cures[meaning]
    if not unreached:
        return ""
    return _UNOPENED if is_file else _UNREACHED


def _is_the_databases(error: Exception) -> bool:
    if isinstance(error, sa.exc.SQLAlchemyError | ConnectionError | TimeoutError | socket.gaierror):
        return True
    return any(cls.__module__.partition(".")[0] in _modules() for cls in type(error).__mro__)


def _raising(error: Exception) -> str | None:
    """Return the driver whose code raised an error that is none of its classes: PyMySQL's for a package that it lacks."""
    names = [
        str(frame.f_globals.get("__name__")).partition(".")[0] for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    drivers = _modules()
    raising = [name for name in names if name in drivers or name in ("sqlalchemy", "idemtable")][-1:]
    return next(filter(drivers.__contains__, raising), None)


def _modules() -> set[str]:
    return {driver.module for driver in _drivers() if driver.works}


def _drivers() -> Iterator[Driver]:
    return (driver for database in known.values() for driver in database.drivers)


def _cure(module: str) -> str | None:
    if module == "greenlet":  # no database's: SQLAlchemy's own, for all async drivers
        return 'pip install "idemtable[asyncio]"'
    return next((driver.cure for driver in _drivers() if driver.module == module), None)


def _said(cause: BaseException) -> str:
    # PyMySQL's errors are a number and a text, those of MySQL's connector a state as well; str() would show a tuple.
    texts = [part for part in cause.args if isinstance(part, str)] or [str(cause)]
    text = max(texts, key=len) or type(cause).__name__
    return text.rstrip(".? \n")


def masked(text: str, url: sa.URL | None) -> str:
    """Take out of a text every password of a URL, and whatever looks like one."""
    text = _IN_URL.sub(r"\1***@", text)
    for secret in _secrets(url):
        text = text.replace(secret, "***")
    return text


def _secrets(url: sa.URL | None) -> Iterable[str]:
    if url is None:
        return ()
    words = [str(url.password or "")]
    for name, value in url.query.items():
        if _SECRET_OPTION.search(name):
            words += [value] if isinstance(value, str) else value
    # As it was typed, too, and as a traceback shows it. Two letters would tear holes in every sentence and hide nothing.
    forms = {
        form for word in words for form in (word, quote(word), quote(word, safe=""), quote_plus(word), repr(word)[1:-1])
    }
    return sorted((form for form in forms if len(form) > 2), key=len, reverse=True)
