"""What PostgreSQL's catalogue tells of the promises."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection

from ...model import Finding
from ..datestyle import CURE, unread_style
from . import CHARSET, CONNECTIONS, Catalogue
from .asking import ISOLATION, LEVELS, RUN_TWICE, asked, first, good, mend, note, quoted, rights

_OLDEST: Final = 140000
_TABLE: Final = """SELECT c.relpersistence, c.reloptions::text, s.n_live_tup, s.n_dead_tup, s.last_autovacuum, s.last_vacuum
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_catalog.pg_stat_all_tables s ON s.relid = c.oid
    WHERE c.oid = to_regclass(CAST(:name AS text))"""
_COLLATED: Final = """SELECT a.attname
    FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_collation c ON c.oid = a.attcollation
    WHERE a.attrelid = to_regclass(CAST(:name AS text)) AND a.attnum > 0 AND NOT c.collisdeterministic ORDER BY 1"""
_RIGHTS: Final = ("SELECT", "INSERT", "UPDATE", "DELETE")
_LONG: Final = timedelta(hours=1)
"""A transaction this old keeps vacuum from everything that was deleted since it began."""
_DEAD: Final = 50_000
_DEAD_SHARE: Final = 0.5
"""Dead rows, and their part of all, from which on vacuum does not keep up: it begins at a fifth by default."""
_SHORT: Final = 5000
"""Milliseconds: what `wait` is by default."""


class PostgreSQLCatalogue(Catalogue):
    """PostgreSQL's."""

    number = "SELECT pg_backend_pid()"
    ending = "SELECT pg_terminate_backend({number}, 2000)"  # and wait for up to two seconds until it is gone
    note = (
        "SELECT set_config('idemtable.verify', '{word}', false)",
        "SELECT current_setting('idemtable.verify', true)",
    )
    cures = {
        "53300": CONNECTIONS,
        "22021": CHARSET,
        "22P05": CHARSET,
        "08P01": "a pooler in statement mode lets no transaction have a second statement, and a call needs three. Have it "
        "give out connections by the transaction or by the session (pool_mode)",
    } | dict.fromkeys(
        ("26000", "42P05"),
        "a pooler gives a transaction another connection than the one before it, where the driver's prepared statements "
        "are not. Make the engine with connect_args={'prepare_threshold': None} (psycopg) or {'statement_cache_size': 0} "
        "(asyncpg), or have the pooler keep them (PgBouncer 1.21: max_prepared_statements)",
    )

    @classmethod
    def examine(cls, connection: Connection, table: str, schema: str | None) -> list[Finding]:
        """Ask, and judge."""
        settings = dict(asked(connection, "SELECT name, setting FROM pg_catalog.pg_settings") or [])
        return [
            *judged(settings, bool(first(connection, "SELECT pg_is_in_recovery()")), _standbys(connection)),
            *_of_table(connection, quoted(connection, table, schema)),
            *_of_transactions(connection),
        ]

    @classmethod
    def unread(cls, connection: Connection) -> Finding | None:
        """Look at the DateStyle."""
        if (
            not hasattr(connection.connection.driver_connection, "pgconn")
            or (style := unread_style(connection)) is None
        ):
            return None
        return mend("datestyle", f"{style}: psycopg reads times in ISO's alone, and calls are refused", CURE)

    @classmethod
    def isolation(cls, level: str) -> Finding:
        """Judge a level."""
        is_usual = level in ("READ COMMITTED", "READ UNCOMMITTED")  # one and the same here
        return good(ISOLATION, level) if is_usual else note(ISOLATION, f"{level}: {LEVELS}")

    @classmethod
    def fails_over(cls, connection: Connection) -> str | None:
        """Ask for standbys."""
        if names := first(connection, "SELECT current_setting('synchronous_standby_names', true)"):
            return f"synchronous_standby_names is {names}"
        if count := _standbys(connection):
            return f"{_follow(count)} it"
        return None


def _standbys(connection: Connection) -> int:
    return int(first(connection, "SELECT count(*) FROM pg_catalog.pg_stat_replication") or 0)


def _follow(standbys: int) -> str:
    return "1 standby follows" if standbys == 1 else f"{standbys} standbys follow"


def judged(settings: Mapping[str, str], is_standby: bool, standbys: int) -> Iterator[Finding]:
    """Judge what the server says of itself.

    Args:
        settings: by name, as pg_settings has them.
        is_standby: whether it is in recovery.
        standbys: how many follow it.
    """
    version = int(settings.get("server_version_num", _OLDEST))
    if version < _OLDEST:
        yield mend(
            "version", f"PostgreSQL {version // 10000}: the library is made for 14 and later", "Upgrade the server"
        )
    if is_standby:
        yield mend("role", "this server is a standby: claims and replays need the primary", _PRIMARY)
    elif settings.get("default_transaction_read_only") == "on":
        text = "default_transaction_read_only is on: every transaction is refused its claim"
        yield mend(
            "role", text, "ALTER ROLE … SET default_transaction_read_only = off, or take it out of the configuration"
        )
    else:
        yield good("role", "a primary")
    yield from _durable(settings, standbys)
    if settings.get("autovacuum") == "off":
        yield mend(
            "autovacuum", "off: what is deleted and replaced stays in the table", "Set autovacuum = on and reload"
        )
    else:
        yield good("autovacuum", "on")
    yield from _texts(settings)
    yield from _times(settings)


_PRIMARY: Final = "Name the primary in the URL, or several hosts with target_session_attrs=read-write"


def _durable(settings: Mapping[str, str], standbys: int) -> Iterator[Finding]:
    commit, names = settings.get("synchronous_commit", "on"), settings.get("synchronous_standby_names", "")
    if commit == "off":
        text = f"off: a crash of the server forgets what was acknowledged in the last moment. {RUN_TWICE}"
        yield mend("synchronous_commit", text, "Set synchronous_commit = on, for the application's role at least")
    elif names and commit in ("local", "remote_write"):
        text = f"{commit}: COMMIT does not wait until a standby has it on disk. A failover may forget it. {RUN_TWICE}"
        yield mend("synchronous_commit", text, "Set synchronous_commit = on")
    else:
        yield good("synchronous_commit", commit)
    if names:
        yield good("synchronous_standby_names", names)
    elif standbys:
        text = f"empty, and {_follow(standbys)}: a failover may forget what was acknowledged. {RUN_TWICE}"
        yield note("synchronous_standby_names", text, "Name one that COMMIT waits for, if that is not to be")
    else:
        yield good("synchronous_standby_names", "empty, and no standby follows")
    for name, does in (
        ("fsync", "a crash of the machine can leave the whole database damaged"),
        ("full_page_writes", "a crash in the middle of a write can leave pages damaged"),
    ):
        if settings.get(name) == "off":
            yield mend(name, f"off: {does}", f"Set {name} = on and reload")
        else:
            yield good(name, "on")


def _texts(settings: Mapping[str, str]) -> Iterator[Finding]:
    if (encoding := settings.get("server_encoding", "UTF8")) != "UTF8":
        text = f"the database's is {encoding}: keys and results with other characters are refused"
        yield mend("encoding", text, "Move to a database that was made with ENCODING 'UTF8'")
    elif (encoding := settings.get("client_encoding", "UTF8")) != "UTF8":
        text = f"the client's is {encoding}: other characters are refused, and statements do not travel in packets"
        yield note("encoding", text, "Take client_encoding out of the URL")
    else:
        yield good("encoding", "UTF8")


def _times(settings: Mapping[str, str]) -> Iterator[Finding]:
    name = "idle_in_transaction_session_timeout"
    if settings.get(name) == "0":
        text = "0: a client that hangs inside a function keeps its key, and everybody who waits for it"
        yield note(name, text, f"Set {name} = '5min' for the application's role, or what its longest function needs")
    for name in ("statement_timeout", "lock_timeout"):
        if 0 < int(settings.get(name, 0)) < _SHORT:
            text = (
                f"{settings[name]} ms: a function that takes longer is broken off, and a duplicate may wait no longer"
            )
            yield note(name, text, "Choose wait= accordingly")


def _of_table(connection: Connection, name: str) -> Iterator[Finding]:
    rows = asked(connection, _TABLE, {"name": name})
    if not rows:
        return
    persistence, options, live, dead, *vacuums = rows[0]
    if persistence == "u":
        text = f"UNLOGGED: a crash of the server empties it. {RUN_TWICE}"
        yield mend("table", text, f"ALTER TABLE {name} SET LOGGED")
    if "autovacuum_enabled=false" in (options or ""):
        yield mend("autovacuum", "off for the table", f"ALTER TABLE {name} RESET (autovacuum_enabled)")
    last = max((moment for moment in vacuums if moment is not None), default=None)
    when = "never" if last is None else f"last {last.astimezone(UTC):%Y-%m-%d %H:%M}Z"
    if (dead or 0) > max(_DEAD, _DEAD_SHARE * (live or 0)):
        text = f"{dead:,} dead rows beside {live:,}, vacuumed {when}: autovacuum does not keep up"
        yield mend(
            "vacuum",
            text,
            f"VACUUM {name}, and look for what holds it up: a transaction or a slot that is never closed",
        )
    else:
        yield good("vacuum", f"{dead or 0:,} dead rows, vacuumed {when}")
    if collated := asked(connection, _COLLATED, {"name": name}):
        columns = ", ".join(row[0] for row in collated)
        text = f"of {columns}: not deterministic, so that a search takes different names for one"
        yield mend("collation", text, f'ALTER TABLE {name} ALTER COLUMN … TYPE text COLLATE "default"')
    has = {
        right: bool(first(connection, "SELECT has_table_privilege(to_regclass(CAST(:name AS text)), :right)",
                          {"name": name, "right": right}))
        for right in _RIGHTS
    }  # fmt: skip
    yield rights(has)
    if first(connection, "SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user"):
        yield note(
            "superuser", "this role is one: no job needs that", "`idemtable db sql --grants` prints what each job needs"
        )


def _of_transactions(connection: Connection) -> Iterator[Finding]:
    sql = "SELECT min(xact_start), clock_timestamp() FROM pg_catalog.pg_stat_activity WHERE backend_xmin IS NOT NULL"
    rows: Any = asked(connection, sql)
    began: datetime | None = rows[0][0] if rows else None
    if began is not None and (age := rows[0][1] - began) > _LONG:
        text = f"one has been open for {age.total_seconds() / 3600:.0f} h: vacuum cannot remove what was deleted since"
        yield mend("transactions", text, "Find it in pg_stat_activity by its xact_start, and end it")
    elif not first(connection, "SELECT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')"):
        yield note("transactions", "this role sees only its own", "GRANT pg_read_all_stats TO it")
    else:
        yield good("transactions", "none has been open for an hour")
