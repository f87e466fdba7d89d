"""What is wrong where the library runs, from what the database says of itself: nothing is written, no table is made.

::

    for finding in doctor.examine(engine):
        print(finding.level, finding.about, finding.found, finding.cure)

What each database is asked is in ``idemtable.dialects.catalogue``; here is what all have in common: the table, its rows,
the clock, and the engine with its pool, which only the application has.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy import pool as pools

from . import schema as schemas
from .binding import apart
from .dialects import find, full_name, named
from .dialects.catalogue.asking import good, mend, note
from .dialects.words import asks_autocommit
from .model import Finding, Level, Status
from .multi_host import is_multi_host
from .repository import Records
from .tables import check_names
from .upgrade import Bind, connected, make_url

if TYPE_CHECKING:
    from .model import Stats

__all__ = ["Finding", "Level", "examine"]

_SKEW: Final = timedelta(seconds=2)
_WRONG: Final = timedelta(minutes=1)
"""How far two clocks may be apart before it is said, and before it is to be mended."""
_OVERDUE: Final = timedelta(days=2)
"""Whoever purges once a night may have missed one."""


def examine(bind: Bind, *, table: str = "idemtable", schema: str | None = None) -> list[Finding]:
    """Look at the table, the database's settings and the engine, and say what must be mended and how.

    Args:
        bind: the application's own ``Engine`` or ``AsyncEngine``, whose pool is looked at too; or a URL. In a running event
            loop call it through ``asyncio.to_thread``.
        table: the table's name.
        schema: the table's schema.

    Returns:
        What was found, good things too. Nothing needs mending if no ``level`` is ``Level.MEND``.

    Raises:
        ValueError: a name or a URL that cannot be, or a database that is not supported.
        TypeError: `bind` is none of these.
        RuntimeError: an event loop is running in this thread, and the driver is async.
        sqlalchemy.exc.DBAPIError: the database cannot be reached.
    """
    check_names(table, schema)
    if isinstance(bind, str | sa.URL):
        bind = make_url(bind)
        if (name := named(bind.get_backend_name()).missing_file(bind)) is not None:
            return [mend("file", f"there is no file {name}", "`idemtable db upgrade` creates it, with the table")]
    given: Any = bind
    engine = None if isinstance(given, sa.URL) else getattr(given, "sync_engine", given)

    def as_made(connection: sa.Connection) -> list[Finding]:
        return list(_of_connection(connection))

    def look(connection: sa.Connection) -> list[Finding]:
        catalogue = named(connection.dialect.name).catalogue
        if (unread := catalogue.unread(connection)) is not None:
            return [unread, *_pool(engine, None)]
        return [
            *_of_schema(connection, table, schema),
            *catalogue.examine(connection, table, schema),
            *_pool(engine, catalogue.fails_over(connection) or _hosts(connection.engine)),
        ]

    made = connected(bind, as_made, as_it_is=True)
    if not isinstance(given, sa.Engine) or not named(given.dialect.name).upgrade_options:
        return [*connected(bind, look), *made]
    # Elsewhere: to ask in a transaction, a connection is set otherwise than the application's may be.
    bare = apart(given)
    try:
        return [*connected(bare, look), *made]
    finally:
        bare.dispose()


# --- the table ------------------------------------------------------------------------------------------------------------


def _of_schema(connection: sa.Connection, table: str, schema: str | None) -> Iterator[Finding]:
    state = schemas.state(connection, table, schema)
    yield from _step(connection, state, table, schema)
    records = Records(find(connection.dialect, table, schema), table, schema)
    yield _clock(connection, records)
    if state.step is not None and not state.unread:
        try:
            with connection.begin_nested():
                stats, overdue = records.stats(connection), records.overdue(connection)
        except sa.exc.DBAPIError:  # the table is not as it should be, which was said
            return
        yield from _rows(stats, overdue, full_name(table, schema))


def _step(connection: sa.Connection, state: schemas.State, table: str, schema: str | None) -> Iterator[Finding]:
    for problem in state.problems:
        yield mend("schema", problem, schemas.cure(state, table, schema))
    if not state.problems:
        version = f"{table}_version"
        if state.recorded is None and not named(connection.dialect.name).unreadable(connection, version, schema):
            text = f"the table is as it should be, and {full_name(version, schema)} does not say at which step"
            yield note("schema", text, "`idemtable db upgrade` writes it down")
            return
        newest = "" if state.step == schemas.STEP else f", newer than this version's {schemas.STEP}"
        yield good("schema", f"step {state.step}{newest}")


def _rows(stats: Stats, overdue: timedelta | None, table: str) -> Iterator[Finding]:
    oldest = "" if stats.oldest is None else f", the oldest of {stats.oldest.astimezone(UTC):%Y-%m-%d %H:%M}Z"
    size = "" if stats.table_bytes is None else f", {stats.table_bytes / 1024**2:,.1f} MiB"
    yield good("rows", f"{stats.rows:,}{oldest}{size}")
    if unfinished := stats.by_status.get(Status.IN_PROGRESS, 0):
        text = (
            f"{unfinished:,} rows without a result: their functions committed by themselves, and their keys are refused"
        )
        cure = "`idemtable ls --unfinished` lists them; find out what was done, then `idemtable forget`"
        yield mend("unfinished", text, cure)
    else:
        yield good("unfinished", "none")
    if unknown := stats.by_status.get(Status.UNKNOWN, 0):
        text = f"{unknown:,} rows were written by a newer release, and this one does not run their keys"
        yield mend("status", text, "Upgrade idemtable here too")
    if overdue is not None and overdue > _OVERDUE:
        text = (
            f"{stats.expired:,} rows have expired, the first {overdue.days} days ago: nothing deletes them from {table}"
        )
        yield mend("purge", text, "Run `idemtable purge` every hour")
    else:
        yield good("purge", f"{stats.expired:,} rows have expired")


def _clock(connection: sa.Connection, records: Records) -> Finding:
    before = datetime.now(UTC)
    now = records.now(connection)
    after = datetime.now(UTC)
    # Nobody knows when between the two it was read.
    skew = max(now - after, before - now, timedelta())
    text = f"{skew.total_seconds():.1f} s {'ahead of' if now > after else 'behind'} this machine's"
    if skew > _WRONG:
        return mend(
            "clock", f"{text}: one of them is wrong, and keys expire by the database's", "Have both keep time (NTP)"
        )
    if skew > _SKEW:
        return note("clock", f"{text}; keys expire by the database's", "Have both keep time (NTP)")
    return good("clock", "the database's and this machine's agree")


# --- the engine and its pool ----------------------------------------------------------------------------------------------


def _of_connection(connection: sa.Connection) -> Iterator[Finding]:
    autocommit = _autocommit(connection)
    yield autocommit
    if autocommit.level is Level.GOOD:
        level = named(connection.dialect.name).catalogue.isolation(connection.get_isolation_level())
        yield from () if level is None else (level,)


def _autocommit(connection: sa.Connection) -> Finding:
    about = "autocommit"
    cure = "Take AUTOCOMMIT out of create_engine, and autocommit out of connect_args and the URL"
    dialect = find(connection.dialect, "idemtable", None)
    if asks_autocommit(connection):
        return mend(about, "the engine is in AUTOCOMMIT: nothing would be atomic, and calls are refused", cure)
    if dialect.commits_by_itself(connection):
        return mend(about, "the driver begins or commits transactions by itself, and calls are refused", cure)
    return good(about, "off")


def _pool(engine: sa.Engine | None, failover: str | None) -> Iterator[Finding]:
    about = "pool_pre_ping"
    cure = "create_engine(…, pool_pre_ping=True)"
    if engine is None:
        if failover is not None:
            text = f"another server may take this one's place ({failover}), and only your program knows its engine"
            yield note(about, text, f"{cure}; idemtable.doctor.examine(engine) looks at it there")
        return
    pool: Any = engine.pool
    kind = type(pool).__name__
    if isinstance(pool, pools.StaticPool):
        text = f"{kind} gives everybody one connection: two calls at once would end each other's transactions"
        yield mend("pool", text, "poolclass=sqlalchemy.QueuePool, or NullPool")
    elif isinstance(pool, pools.SingletonThreadPool):
        text = f"{kind} gives each thread one connection, and in memory a database of its own"
        yield note("pool", text, "Name a file")
    else:
        yield good("pool", kind)
    if getattr(pool, "_reset_on_return", None) is pools.base.reset_none and not isinstance(pool, pools.NullPool):
        text = "pool_reset_on_return is None: a connection comes back with its transaction open, and its keys held"
        yield mend("pool_reset_on_return", text, "Leave the argument out")
    if not pool._pre_ping and failover is not None and not isinstance(pool, pools.NullPool):
        text = f"off, and another server may take this one's place ({failover}): after that each connection fails once"
        yield mend(about, text, cure)
    else:
        yield good(about, "on" if pool._pre_ping else "off, and nothing tells of another server")


def _hosts(engine: sa.Engine) -> str | None:
    """Say that an engine knows more than one host."""
    if is_multi_host(engine):
        return "multi_host names several"
    given = engine.url.query.get("host", ())
    hosts = [engine.url.host or "", *([given] if isinstance(given, str) else given)]
    many = sum(len(host.split(",")) for host in hosts if host) > 1
    return "the URL names several hosts" if many else None
