"""PostgreSQL: a claim that loses changes nothing, costs no transaction id, and can be read in the same transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from uuid import UUID

from ..model import Status
from .base import Dialect
from .batches.postgresql import MARK, PostgreSQLBatches
from .datestyle import CURE, unread
from .deferred import Deferred, listen, require
from .definition import Driver
from .fragments import COLUMNS, LASTING
from .keyed import Keyed
from .libpq import Packet
from .packet import Line, line_of
from .purging import Swept
from .purging.slices import Place, Slices
from .statement import Answer, hears
from .tables.postgresql import PostgreSQLTable
from .told import piped
from .words import Fault, Look, driver_of, is_plain

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.engine.interfaces import Dialect as SQLAlchemyDialect

# SET LOCAL before each claim would be a round trip of its own, and would stay in force for the business's statements
# after it. Here the statement that waits sets the time-out and puts back what was there. Without a row to return (the
# key is taken) the time-out stays, which is why a lost claim ends its transaction or its savepoint.
#
# In the INSERT through a setting of our own, in a CASE, whose branches are tried in order: 50 microseconds faster than
# the CTE that the rarer UPDATEs need.
#
# What is waited for is an advisory lock of the key's, and not its row: lock_timeout bounds each wait for a lock, and behind
# a row it begins anew with each holder that rolls back (measured: 4.8 s for a wait of one second, behind six of 0.8 s).
# The advisory lock has one queue, and a place in it is one wait.
_CLAIMED = f"""CASE WHEN set_config('idemtable.lock_timeout', current_setting('lock_timeout'), true) IS NULL THEN NULL
            WHEN set_config('lock_timeout', CAST(:wait AS text), true) IS NULL THEN NULL
            WHEN pg_advisory_xact_lock(CAST(:lock AS bigint)) IS NULL THEN NULL
            ELSE {Status.IN_PROGRESS.code} END"""
_BOUNDED = """WITH before AS MATERIALIZED (
        SELECT current_setting('lock_timeout') AS timeout, set_config('lock_timeout', CAST(:wait AS text), true))"""

# It gives a row where none was touched too, so that the time-out is put back: the transaction may be the caller's.
_COUNTED = """SELECT found.number, set_config('lock_timeout', before.timeout, true)
        FROM before, (SELECT count(*) AS number FROM touched) AS found"""

_STORE = """INSERT INTO {{table}} AS t (
            id, tenant, scope, status, owner, created_at, expires_at, codec, result, completed_at)
        VALUES (:id, :tenant, :scope, :status, :owner, '-infinity', '-infinity', :codec, :result, {{now}})
        ON CONFLICT (id) DO UPDATE SET status = {kept}, codec = excluded.codec, result = excluded.result,
            completed_at = excluded.completed_at {mine}
        RETURNING {own}"""
_REFUSED = ("22012",)
"""What `STORE_OR_FAIL` fails with: division_by_zero."""

_SET_WAIT = "SELECT current_setting('lock_timeout'), set_config('lock_timeout', CAST(:wait AS text), true)"


def _no_line(connection: Connection) -> None:
    """Say that another driver's statements go one by one."""


class PostgreSQL(PostgreSQLTable, Dialect):
    """PostgreSQL 14 and later, through psycopg, asyncpg and psycopg2."""

    names = ("postgresql",)
    batches = PostgreSQLBatches
    mistaken = ("postgres",)
    drivers = (
        Driver("psycopg", "psycopg", 'pip install "idemtable[postgresql]"'),
        Driver("asyncpg", "asyncpg", 'pip install "idemtable[asyncio]"'),
        # SQLAlchemy before 2.1 takes it where a URL names none.
        Driver("psycopg2", "psycopg2", 'write postgresql+psycopg:// and pip install "idemtable[postgresql]"'),
    )

    # ON CONFLICT DO NOTHING leaves the transaction usable, and where its snapshot could not see the winner's row (at
    # REPEATABLE READ and above) it raises 40001 by itself.
    reads_in_place = True
    blind_levels = ("REPEATABLE READ", "SERIALIZABLE")
    defers = True
    commits_along = True

    # clock_timestamp() and not now(): now() is frozen at BEGIN, before the wait for another claim.
    now = "clock_timestamp()"
    clocks = (now, "statement_timestamp()")
    moment = "TIMESTAMPTZ '{}+00'"
    later = "clock_timestamp() + CAST(:ttl AS bigint) * interval '1 microsecond'"
    # Not clock_timestamp() here, which may be another one for each row: no index helps to compare with it.
    past = "statement_timestamp() - interval '1 minute'"
    expires = f"CASE WHEN {LASTING} THEN expires_at + (completed_at - created_at) ELSE expires_at END"

    # A row can be seen here that no standby has: of a COMMIT that waits for one which is gone, whose caller was cut off.
    settled = """current_setting('synchronous_standby_names') = ''
            OR current_setting('synchronous_commit') IN ('off', 'local')"""
    # A stricter level would remember all that a slice reads, and refuse the claims that come between.
    purge_options = {"isolation_level": "READ COMMITTED"}

    faults = {
        "40001": Fault.RESTART,  # serialization_failure
        "40P01": Fault.RESTART,  # deadlock_detected
        "55P03": Fault.BUSY,  # lock_not_available
        "57014": Fault.BUSY,  # query_canceled, by a statement_timeout that is shorter than the wait
        "23505": Fault.DUPLICATE,
        "25006": Fault.READ_ONLY,
        "25P02": Fault.DEAD,  # in_failed_sql_transaction
        "3B001": Fault.DEAD,  # invalid_savepoint_specification
        "25P01": Fault.DEAD,  # no_active_sql_transaction: SAVEPOINT after a COMMIT sent as text
        "42501": Fault.DENIED,  # insufficient_privilege
        "42P01": Fault.NO_TABLE,
        "42703": Fault.NO_TABLE,  # undefined_column
        "3F000": Fault.NO_TABLE,  # invalid_schema_name
        "57P03": Fault.AWAY,  # cannot_connect_now: starting up
        "53300": Fault.AWAY,  # too_many_connections
        "57P01": Fault.UNKNOWN,  # admin_shutdown
        "57P02": Fault.UNKNOWN,  # crash_shutdown
        "25P03": Fault.UNKNOWN,  # idle_in_transaction_session_timeout
        "08000": Fault.UNKNOWN,
        "08001": Fault.UNKNOWN,
        "08003": Fault.UNKNOWN,
        "08006": Fault.UNKNOWN,
        "08007": Fault.UNKNOWN,
        "08P01": Fault.UNKNOWN,  # PgBouncer's own
        "26000": Fault.RESTART,  # invalid_sql_statement_name: forgotten by a pooler (see `packet`)
        "42P05": Fault.RESTART,  # duplicate_prepared_statement
        "40003": Fault.UNKNOWN,  # statement_completion_unknown
        "lost": Fault.UNKNOWN,
    }

    stale = ("40001",)

    # The conflict target is named: without it a violation of any other unique constraint would pass for a duplicate.
    CLAIM = f"""INSERT INTO {{table}} ({COLUMNS})
        VALUES (:id, :tenant, :scope, :key, :fingerprint, {_CLAIMED}, :owner, {{now}}, {{later}})
        ON CONFLICT (id) DO NOTHING
        RETURNING set_config('lock_timeout', current_setting('idemtable.lock_timeout'), true)"""
    # Not an UPDATE: a prepared one reads the whole table, once its plan was made while the table was small. ON CONFLICT
    # goes through the index without asking the planner, and costs the same. What is inserted where there is no row is told
    # by its age, and never committed. It has tenant and scope: row-level security looks at it before the conflict is found.
    STORE = _STORE.format(
        kept="excluded.status", mine="WHERE t.owner = excluded.owner", own="t.created_at > '-infinity'"
    )
    # For use with COMMIT behind it, where nobody can ask how many rows it touched: it fails by itself if that was none. By
    # a division and not by a status that is NULL: of that the server's error would show the whole row, result and all.
    STORE_OR_FAIL = _STORE.format(
        kept="excluded.status / CAST(t.owner = excluded.owner AS integer)",
        mine="",
        own="1 / CAST(t.created_at > '-infinity' AS integer)",
    )
    # For use with somebody else's statement behind it, which must not be done where the key is taken; it fails likewise.
    CLAIM_OR_FAIL = CLAIM.replace("{table} (", "{table} AS t (").replace(
        "DO NOTHING", "DO UPDATE SET status = 1 / CAST(t.created_at < '-infinity' AS integer)"
    )
    TAKE_OVER = f"""{_BOUNDED}
        UPDATE {{table}} AS t SET fingerprint = CAST(:fingerprint AS bytea), status = {Status.IN_PROGRESS.code},
            owner = CAST(:owner AS bytea), codec = NULL, result = NULL, completed_at = NULL,
            created_at = {{now}}, expires_at = {{later}}
        FROM before
        WHERE t.id = CAST(:id AS uuid) AND t.owner = CAST(:stale AS bytea) AND {{expires}} <= {{now}}
        RETURNING set_config('lock_timeout', before.timeout, true)"""
    REDEEM = f"""{_BOUNDED}
        UPDATE {{table}} AS t SET fingerprint = CAST(:fingerprint AS bytea), status = {Status.IN_PROGRESS.code},
            owner = CAST(:owner AS bytea)
        FROM before
        WHERE t.id = CAST(:id AS uuid) AND t.owner = CAST(:holder AS bytea)
            AND t.status = {Status.ISSUED.code} AND t.expires_at > {{now}}
        RETURNING set_config('lock_timeout', before.timeout, true)"""
    FORGET = f"""{_BOUNDED}, touched AS (
            DELETE FROM {{table}} AS t USING before WHERE t.id = CAST(:id AS uuid) RETURNING 1)
        {_COUNTED}"""
    # A lock on a row is written to the log and makes COMMIT wait for the standby, as a plain read does not.
    HOLD = f"""{_BOUNDED}, touched AS (
            SELECT 1 FROM {{table}} AS t, before WHERE t.id = CAST(:id AS uuid) AND t.owner = :owner FOR KEY SHARE OF t)
        {_COUNTED}"""
    BYTES = "SELECT pg_total_relation_size(to_regclass(:table))"

    def __init__(self, dialect: SQLAlchemyDialect, table: str, schema: str | None) -> None:
        super().__init__(dialect, table, schema)
        # Advisory locks are the database's: the same key in another table, or of another tenant, must not wait for this.
        self._salt = int.from_bytes(sha256(self.table.encode()).digest()[:8], "big", signed=True)
        self._packs = dialect.driver.startswith("psycopg") and dialect.driver != "psycopg2"
        self._line: Callable[[Connection], Line | None] = line_of if self._packs else _no_line
        self._claiming, self._deferring, self._finding, self._storing, self._ending = (
            Packet(self.filled(template))
            for template in (self.CLAIM, self.CLAIM_OR_FAIL, self.FIND, self.STORE, self.STORE_OR_FAIL)
        )

    def statement(self, template: str) -> Keyed:
        return Keyed(self.filled(template), self._dialect)

    def id(self, id: bytes) -> Any:
        return UUID(bytes=id)

    def wait(self, wait: float) -> str:
        return str(int(wait * 1000) or 1)  # milliseconds; 0 would mean to wait for ever

    def claim(self, connection: Connection, values: Mapping[str, Any]) -> bool:
        values = self._locking(values)
        if (line := self._line(connection)) is not None:
            return bool(line.send(connection, (self._claiming, values)).ntuples)
        return self._claim(connection, values).first() is not None

    def defer(self, connection: Connection, values: Mapping[str, Any]) -> Deferred | None:
        line = self._line(connection)
        if line is None or line.is_async or not line.is_idle:
            return None
        listen(connection.engine)
        queue = partial(line.queue, (self._deferring, self._locking(values)))
        return Deferred(connection, queue, partial(self.claim, connection, values), self.is_driver_error)

    def _locking(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**values, "lock": int.from_bytes(values["id"][:8], "big", signed=True) ^ self._salt}

    def find(self, connection: Connection, values: Mapping[str, Any], look: Look) -> Answer:
        line = self._line(connection)
        if line is None:
            return super().find(connection, values, look)
        engine, end = connection.engine, None
        if look is Look.LEAVING and is_plain(engine.dialect.do_rollback) and not hears(connection, "rollback"):
            end = b"ROLLBACK"
        found = line.send(connection, (self._finding, values), begin=look is not Look.ASIDE, end=end)
        return Answer(line.rows(found), found.ntuples)

    def hold(self, connection: Connection, values: Mapping[str, Any]) -> bool:
        return bool(self.statement(self.HOLD)(connection, values).scalar())

    def store(self, connection: Connection, values: Mapping[str, Any], along: Line | None) -> bool:
        if along is not None:
            return along.commit_with(connection, (self._ending, values), _REFUSED) is not None
        if (line := self._line(connection)) is not None:
            stored = line.send(connection, (self._storing, values))
            return bool(stored.ntuples and stored.get_value(0, 0) == b"t")
        row = self._store(connection, values).first()
        return row is not None and row[0]

    def along(self, connection: Connection) -> Line | None:
        if not is_plain(connection.dialect.do_commit) or not connection.in_transaction():
            return None
        return self._line(connection)

    def take_over(self, connection: Connection, values: Mapping[str, Any]) -> bool:
        return self._take_over(connection, values).first() is not None

    def redeem(self, connection: Connection, values: Mapping[str, Any]) -> bool:
        return self._redeem(connection, values).first() is not None

    def forget(self, connection: Connection, values: Mapping[str, Any]) -> bool:
        return bool(self._forget(connection, values).scalar())

    @cached_property
    def _purging(self) -> Slices:
        return Slices(self)

    def sweep(self, connection: Connection, lease: Mapping[str, Any], batch: int, rest: Any, *, careful: bool) -> Swept:
        if not careful and isinstance(rest, Place) and (line := self._own_line(connection)) is not None:
            return self._purging.sweep(connection, line, lease, batch, rest)
        return super().sweep(connection, lease, batch, rest, careful=careful)

    def _own_line(self, connection: Connection) -> Line | None:
        """Return the line of a connection whose transaction is all that it will be used for, and unheard by anybody yet."""
        if hears(connection, "commit"):
            return None
        line = self.along(connection)
        return line if line is not None and line.is_idle else None  # else somebody has begun, who may want to go on

    def delete_expired(self, connection: Connection, batch: int, rest: Any, *, careful: bool) -> Swept:
        return self._purging.delete(connection, batch, rest, careful)

    def table_bytes(self, connection: Connection, table: str, schema: str | None) -> int | None:
        size = self.statement(self.BYTES)(connection, {"table": self.table}).scalar()
        return None if size is None else int(size)

    @classmethod
    def inside(cls, driver: Any) -> bool | None:
        if (pgconn := getattr(driver, "pgconn", None)) is not None:  # psycopg, whose `info` is made anew each time
            return bool(pgconn.transaction_status)
        if (info := getattr(driver, "info", None)) is not None:  # psycopg2
            return bool(info.transaction_status)
        if (inside := getattr(driver, "is_in_transaction", None)) is not None:  # asyncpg
            return bool(inside())
        return None

    def mark(self, connection: Connection) -> str | None:
        # It needs no right and no table that the caller could have lost sight of: a look at a row that fails would end a
        # healthy transaction. And where row-level security hides the row, it is not missed.
        mark: str | None = self.statement(f"SELECT {MARK}")(connection).scalar()
        return mark

    @contextmanager
    def waiting(self, connection: Connection, wait: float | None) -> Iterator[None]:
        if wait is None:
            yield
            return
        # 55P03 ends a transaction, but not one that has a savepoint; ROLLBACK TO also puts the time-out back.
        with connection.begin_nested():
            if wait == 0:  # the statement inside says NOWAIT
                yield
                return
            before = self.statement(_SET_WAIT)(connection, {"wait": self.wait(wait)}).scalar()
            yield
            self.statement(_SET_WAIT)(connection, {"wait": before})

    def lock_name(self, connection: Connection, id: bytes, wait: float | None, *, alone: bool) -> bool:
        require(connection)
        number = {"number": int.from_bytes(id[:8], "big", signed=True)}
        if wait == 0:
            sql = "SELECT pg_try_advisory_xact_lock(CAST(:number AS bigint))"
            return bool(self.statement(sql)(connection, number).scalar())
        with self.waiting(connection, wait):
            self.statement("SELECT pg_advisory_xact_lock(CAST(:number AS bigint))")(connection, number)
        return True

    def is_standby(self, connection: Connection) -> bool:
        # Reported by the server unasked, since 14, so that nothing need be sent in a transaction that has failed.
        driver: Any = driver_of(connection)
        if (info := getattr(driver, "info", None)) is not None:  # psycopg, psycopg2
            return bool(info.parameter_status("in_hot_standby") == "on")
        return getattr(driver.get_settings(), "in_hot_standby", None) == "on"  # asyncpg

    def unusable(self, connection: Connection) -> str | None:
        if self._line(connection) is not None:  # which looks at all that could be said, and faster
            return None
        why = super().unusable(connection)
        return (unread(connection) or piped(connection)) if why is None and self._packs else why

    def commits_by_itself(self, connection: Connection) -> bool:
        # What SQLAlchemy would ask psycopg too, by four calls more: a hundredth of a first execution.
        return bool(driver_of(connection).autocommit) if self._packs else super().commits_by_itself(connection)

    def unlockable(self, connection: Connection) -> str | None:
        return super().unusable(connection)  # a lock reads no times

    def misread(self, error: BaseException) -> str | None:
        # Where the style was changed since the connection was looked at. By its words: psycopg has two classes for it.
        said = str(getattr(error, "orig", None) or error)
        return f"{said}: {CURE}" if said.startswith("can't parse timestamp") else None

    @classmethod
    def code(cls, error: BaseException) -> Any:
        state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)  # psycopg2
        if state is None and type(error).__name__ in ("OperationalError", "InterfaceError"):
            # There is none where no server said anything: the connection broke or never was.
            return "lost"
        return state
