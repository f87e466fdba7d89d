"""The plain functions under ``idemtable db``: upgrade, downgrade, print, check, and write a revision.

Each takes an ``Engine``, an ``AsyncEngine`` or a database URL, sync or async. In a running event loop call them through
``asyncio.to_thread``. A URL is never repeated in an error.
"""

from __future__ import annotations

import asyncio
import io
import re
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from idemtable import schema as steps
from idemtable.binding import apart, dropping_dead, importing_async, is_async
from idemtable.dialects import Job, known, named
from idemtable.revisions import NothingToWrite, revision, revision_text
from idemtable.schema import STEP, check_names
from idemtable.tables import translated

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = [
    "NothingToWrite",
    "check",
    "connected",
    "downgrade",
    "grants",
    "locked",
    "make_url",
    "place",
    "revision",
    "revision_text",
    "sql",
    "upgrade",
]

T = TypeVar("T")
Bind: TypeAlias = "sa.Engine | AsyncEngine | sa.URL | str"

WAIT: Final = 30
"""Seconds to wait for another program that is upgrading; a step takes far less."""

# What would end the quotes round a role's name, or the statement.
_UNSPEAKABLE: Final = re.compile(r"[\x00-\x1f\x7f'\"`\\;]")

# Alembic's ``op`` is one name for the whole process, so two threads would run on each other's connection.
_process: Final = threading.RLock()


def upgrade(
    bind: Bind,
    *,
    to: int | None = None,
    table: str = "idemtable",
    schema: str | None = None,
    create_schema: bool = False,
) -> tuple[int, ...]:
    """Run the steps up to ``to``, the newest by default, each in its own transaction; give those that ran.

    Any number of programs may do so at once. A database that is newer than this version is left as it is. Raises
    ``SchemaError`` when a table of that name is there that is not ours: nothing is changed then.
    """
    check_names(table, schema)
    newest = STEP if to is None else to
    steps.checked_step(newest, "to", 1, STEP, steps.OURS)

    def reached(connection: sa.Connection, number: int) -> bool:
        found = steps.state(connection, table, schema)
        return found.reached >= number and not (number == STEP and found.problems)

    def work(connection: sa.Connection) -> tuple[int, ...]:
        try:
            done = reached(connection, newest)
        except sa.exc.DBAPIError as error:
            database = named(connection.dialect.name)
            if error.orig is None or database.changing is None or database.code(error.orig) != database.changing:
                raise
            done = False  # whoever is changing it holds the lock, and has done so when it is our turn
        connection.rollback()
        if done:
            return ()
        ran = []
        for number in range(1, newest + 1):
            with locked(connection, table, schema):
                if not reached(connection, number):
                    with Operations.context(MigrationContext.configure(connection)):
                        steps.upgrade(to=number, table=table, schema=schema, create_schema=create_schema)
                    ran.append(number)
        return tuple(ran)

    with _process:
        return connected(bind, work)


def downgrade(bind: Bind, *, to: int = 0, table: str = "idemtable", schema: str | None = None) -> tuple[int, ...]:
    """Take back the steps down to ``to``, each in its own transaction; give those that were taken back.

    Step 0 drops the table and every key in it. Raises ``SchemaError`` when the table is not ours or newer than this
    version knows.
    """
    check_names(table, schema)
    steps.checked_step(to, "to", 0, STEP, steps.OURS)

    def work(connection: sa.Connection) -> tuple[int, ...]:
        ran = []
        for number in range(STEP, to, -1):
            with locked(connection, table, schema):
                found = steps.state(connection, table, schema)
                if max(found.step or 0, found.recorded or 0) >= number or not found.curable:
                    with Operations.context(MigrationContext.configure(connection)):
                        steps.downgrade(frm=number, to=number - 1, table=table, schema=schema)
                    ran.append(number)
        return tuple(ran)

    with _process:
        return connected(bind, work)


def sql(
    dialect: sa.URL | str,
    *,
    frm: int = 0,
    to: int | None = None,
    table: str = "idemtable",
    schema: str | None = None,
    create_schema: bool = False,
) -> str:
    """Give the script of the steps from ``frm`` to ``to``, up or down, without connecting.

    ``dialect`` is SQLAlchemy's name of a database, such as ``postgresql``, or a URL of one.
    """
    check_names(table, schema)
    name = _backend(dialect)
    transactional_ddl = named(name).transactional_ddl
    to = STEP if to is None else to
    steps.checked_step(frm, "frm", 0, STEP, steps.OURS)
    steps.checked_step(to, "to", 0, STEP, steps.OURS)
    out = io.StringIO()
    options = {"as_sql": True, "output_buffer": out, "literal_binds": True}
    if transactional_ddl is not None:
        options["transactional_ddl"] = transactional_ddl
    with _process:
        context = MigrationContext.configure(dialect_name=name, opts=options)
        with Operations.context(context), context.begin_transaction():
            if to > frm:
                steps.upgrade(to=to, frm=frm, table=table, schema=schema, create_schema=create_schema)
            elif to < frm:
                steps.downgrade(frm=frm, to=to, table=table, schema=schema)
    return out.getvalue()


def grants(
    dialect: sa.URL | str, roles: Collection[tuple[str, str]], *, table: str = "idemtable", schema: str | None = None
) -> str:
    """Give the script that lets roles of the database do their jobs, without connecting.

    Args:
        dialect: SQLAlchemy's name of a database, such as ``postgresql``, or a URL of one.
        roles: pairs of a job (``"migrate"``, ``"app"`` or ``"purge"``) and the role's name in the database; on MySQL and
            MariaDB ``name@host`` if it may not come from everywhere.
        table: the table's name.
        schema: the table's schema.

    Raises:
        ValueError: a job or a name that cannot be, or a database without roles.
    """
    check_names(table, schema)
    database = named(_backend(dialect))
    jobs = {job.value: job for job in Job}
    asked: dict[Job, list[str]] = {job: [] for job in Job}
    for name, role in roles:
        if (job := jobs.get(name)) is None:
            raise ValueError(f"the job of a role is {', '.join(jobs)}, not {name!r}")
        if not role or role != role.strip() or _UNSPEAKABLE.search(role):
            raise ValueError(f"{role!r} is not the name of a role: give it without quotes")
        asked[job] += database.grants(job, role, table, schema)
    deleting = database.deleting
    parts = (
        [f"-- {job.note.format(deleting=deleting)}", *(f"{line};" for line in lines)]
        for job, lines in asked.items()
        if lines
    )
    return "\n\n".join(map("\n".join, parts)) + "\n" if roles else ""


def _backend(dialect: sa.URL | str) -> str:
    is_name = isinstance(dialect, str) and dialect.isalpha()
    return str(dialect) if is_name else make_url(dialect).get_backend_name()


def check(bind: Bind, *, table: str = "idemtable", schema: str | None = None) -> list[str]:
    """Give what keeps this version of the library from working with the table, and last the cure; or nothing."""
    check_names(table, schema)
    found = connected(bind, lambda connection: steps.state(connection, table, schema))
    return [*found.problems, steps.cure(found, table, schema)] if found.problems else []


def make_url(url: sa.URL | str) -> sa.URL:
    """Parse a URL; ``ValueError``, without its text, when it cannot be or a piece of a password would go astray."""
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        # SQLAlchemy's own error may repeat a piece of a password in which a character was not escaped.
        text = "this is not a database URL; @, : and / in a password must be written as %40, %3A and %2F"
        raise ValueError(text) from None
    database = known.get(parsed.get_backend_name())
    if isinstance(url, str) and (database is None or not database.is_file) and _is_astray(url):
        # The rest of the password is taken for the host, the database or an option, and whoever looks for those repeats it.
        text = "an @ in the password must be written as %40, and so must one in the name of a database or in an option"
        raise ValueError(text)
    return parsed


def _is_astray(url: str) -> bool:
    """Say whether an @ stands behind the one that SQLAlchemy takes for the end of the password."""
    rest = url.partition("://")[2]
    who = re.match(r"[^:/]*(:[^@]*)?@", rest)
    where, _, options = rest[who.end() if who else 0 :].partition("?")
    # Without a user before the host, one may stand in the options: user=me@corp.
    return "@" in where or any("@" in option for option in options.split("&") if who or "=" not in option)


def place(url: sa.URL) -> str:
    """Tell a database from others without its user, password or options."""
    bare = sa.URL.create(url.get_backend_name(), host=url.host, port=url.port, database=url.database)
    return bare.render_as_string()


def connected(bind: Bind, work: Callable[[sa.Connection], T], *, as_it_is: bool = False) -> T:
    """Run ``work`` on a connection of its own, through ``run_sync`` when the driver is async.

    ``as_it_is`` leaves the connection as the engine makes it, and does not prepare it for an upgrade.
    """
    fresh = (lambda connection: connection) if as_it_is else _fresh
    if isinstance(bind, sa.Engine):
        with dropping_dead(bind), bind.connect() as connection:
            return work(fresh(connection))
    if isinstance(bind, str | sa.URL):
        url = make_url(bind)
        if not url.get_dialect().is_async:
            engine = sa.create_engine(url, poolclass=sa.NullPool)
            with engine.connect() as connection:
                return work(fresh(connection))
    elif not is_async(bind):
        raise TypeError(f"expected an Engine, an AsyncEngine or a URL, not {bind!r}")

    if asyncio._get_running_loop() is not None:
        raise RuntimeError("an event loop is running in this thread: call this through asyncio.to_thread")
    with importing_async():
        from sqlalchemy.ext import asyncio as sa_asyncio

    async def run() -> T:
        if isinstance(bind, sa_asyncio.AsyncEngine):
            # The application's pool belongs to another event loop.
            engine = sa_asyncio.AsyncEngine(apart(bind.sync_engine))
        else:
            engine = sa_asyncio.create_async_engine(url, poolclass=sa.NullPool)
        try:
            async with engine.connect() as connection:
                return await connection.run_sync(lambda sync: work(fresh(sync)))
        finally:
            await engine.dispose()

    return asyncio.run(run())


def _fresh(connection: sa.Connection) -> sa.Connection:
    return connection.execution_options(**named(connection.dialect.name).upgrade_options)


@contextmanager
def locked(connection: sa.Connection, table: str = "idemtable", schema: str | None = None) -> Iterator[None]:
    """Hold the lock of everybody who upgrades this table, around one transaction that commits at the end."""
    where = translated(schema, connection.get_execution_options())
    with named(connection.dialect.name).upgrading(connection, table, where, WAIT):
        yield
