"""MySQL and MariaDB, with their oddities: deadlocks of waiters, statements that only half roll back, two languages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from math import ceil
from time import monotonic
from typing import TYPE_CHECKING, Any

from ..model import Status
from .base import Dialect
from .batches.mysql import MySQLBatches
from .compound import REFUSED, Along, send_several, takes_several, watch_end
from .definition import Driver
from .fragments import COLUMNS, LASTING, VALUES, issuing
from .garbled import garbled
from .lock_wait import GIVE_BACK, LEND, LockWait, possible, timed_out
from .origin import said_by
from .purging import Swept
from .purging.bites import Bites
from .statement import Answer, Statement, disbelieve, send
from .tables.mysql import MySQLTable
from .told import asked_autocommit, half_read, in_transaction, number
from .words import Fault, Look, driver_of, is_mariadb, is_plain, level_of
from .written import Written

if TYPE_CHECKING:
    from sqlalchemy import Connection, Select
    from sqlalchemy.engine.interfaces import Dialect as SQLAlchemyDialect

_IN_TIME = "SET STATEMENT innodb_lock_wait_timeout = :wait FOR"
"""What comes before a statement that waits for a lock, on MariaDB."""
_GAPLESS = ("READ COMMITTED", "READ UNCOMMITTED")
_DIRTY_OR_LOCKED = ("READ UNCOMMITTED", "SERIALIZABLE")


class MySQL(MySQLTable, Dialect):
    """MariaDB 10.6 and later and MySQL 8, through PyMySQL, asyncmy, mysqlclient and MySQL's own connector."""

    names = ("mysql", "mariadb")
    batches = MySQLBatches
    deleting = "forget, tokens.revoke or lock_name"
    drivers = (
        Driver("pymysql", "pymysql", 'pip install "idemtable[mysql]"'),
        Driver("asyncmy", "asyncmy", 'pip install "idemtable[asyncio]"'),
        Driver(
            "mysqldb", "MySQLdb", 'write mysql+pymysql:// and pip install "idemtable[mysql]"'
        ),  # where a URL names none
        Driver("mysqlconnector", "mysql", "pip install mysql-connector-python"),
    )

    # At REPEATABLE READ a transaction with an older snapshot does not see the row that its INSERT collided with.
    reads_in_place = False
    reads_after_a_claim = True
    commits_along = True
    begins_unasked = True  # after a deadlock or 1020
    dies_unnoticed = True
    skips_equal = True
    locks_gaps = True  # at REPEATABLE READ, which is what most servers run at

    # UTC_TIMESTAMP and not NOW: NOW is in the session's time zone, and the column has none.
    now = "UTC_TIMESTAMP(6)"
    clocks = (now,)
    moment = "TIMESTAMP'{}'"
    later = "UTC_TIMESTAMP(6) + INTERVAL :ttl MICROSECOND"
    past = "UTC_TIMESTAMP(6) - INTERVAL 1 MINUTE"
    expires = f"""CASE WHEN {LASTING}
            THEN expires_at + INTERVAL TIMESTAMPDIFF(MICROSECOND, created_at, completed_at) MICROSECOND
            ELSE expires_at END"""

    # At REPEATABLE READ the range scan for expired rows would lock gaps, and new claims would wait for it.
    purge_options = {"isolation_level": "READ COMMITTED"}

    faults = {
        1213: Fault.RESTART,  # deadlock; of N waiters on a claim that rolls back, all but one get it
        1020: Fault.RESTART,  # MariaDB's innodb_snapshot_isolation: the row changed since the snapshot
        1614: Fault.RESTART,
        3101: Fault.RESTART,  # Group Replication, at COMMIT
        1205: Fault.BUSY,  # lock wait time-out; rolls back the statement only, or else see `undid_all`
        3572: Fault.BUSY,  # NOWAIT, MySQL 8
        1969: Fault.BUSY,  # MariaDB's max_statement_time, where it is shorter than the wait
        3024: Fault.BUSY,  # MySQL's max_execution_time, which locking reads alone can run into
        1062: Fault.DUPLICATE,
        1792: Fault.READ_ONLY,
        1290: Fault.ELSEWHERE,  # super_read_only: a secondary, or what has lost its majority
        1836: Fault.ELSEWHERE,
        3100: Fault.ELSEWHERE,  # Group Replication, at COMMIT: the majority is gone
        3796: Fault.ELSEWHERE,  # and before a transaction, under BEFORE
        3797: Fault.ELSEWHERE,
        6400: Fault.ELSEWHERE,  # MySQL 9.7 in offline mode
        1305: Fault.DEAD,  # SAVEPOINT does not exist: a deadlock or an implicit COMMIT took it
        1044: Fault.DENIED,  # to the database
        1142: Fault.DENIED,  # to the table
        1143: Fault.DENIED,  # to a column
        1227: Fault.DENIED,  # to what takes a right of the server's
        1054: Fault.NO_TABLE,  # unknown column
        1146: Fault.NO_TABLE,
        1049: Fault.NO_TABLE,  # unknown database
        1040: Fault.AWAY,  # too many connections
        1203: Fault.AWAY,  # too many of this user's
        1226: Fault.AWAY,  # the same, where the user's account has a limit of its own
        1047: Fault.ELSEWHERE,  # Galera: this node is not part of the cluster
        1180: Fault.ELSEWHERE,  # COMMIT could not be replicated; but see `fault`
        1053: Fault.UNKNOWN,
        1927: Fault.UNKNOWN,  # connection was killed
        2002: Fault.UNKNOWN,
        2003: Fault.UNKNOWN,  # nobody answers: the server restarts
        2006: Fault.UNKNOWN,
        2013: Fault.UNKNOWN,
        2014: Fault.UNKNOWN,
        2055: Fault.UNKNOWN,
        4031: Fault.UNKNOWN,
    }

    stale = (1020,)

    # Plain INSERT, and only 1062 means taken. INSERT IGNORE cuts long values and swallows other errors; ON DUPLICATE
    # KEY UPDATE reports one row for the winner and one for the loser.
    _INSERT = f"INSERT INTO {{table}} ({COLUMNS}) VALUES ({VALUES})"
    CLAIM = f"{_IN_TIME} {_INSERT}"
    TAKE_OVER = f"{_IN_TIME} {Dialect.TAKE_OVER}"
    REDEEM = f"{_IN_TIME} {Dialect.REDEEM}"
    FORGET = f"{_IN_TIME} {Dialect.FORGET}"
    # An INSERT that meets a duplicate and leaves it at that takes a shared lock, and of N waiters all but one deadlock
    # when the holder commits. This one takes it exclusively, and they come one after the other. The DELETE leaves no row
    # behind: the lock outlives it until COMMIT.
    LOCK_NAME = f"""INSERT INTO {{table}} (id, scope, status, owner, created_at, expires_at)
        VALUES (:id, 'idemtable.lock', {Status.LOCK.code}, :id, {{now}}, {{now}}) ON DUPLICATE KEY UPDATE owner = :id"""
    # Its collation takes "a" and "a " for one name.
    EXACTLY = "{column} = :{column} AND CHAR_LENGTH({column}) = :{column}_length"
    BYTES = """SELECT data_length + index_length FROM information_schema.tables
        WHERE table_name = :table AND table_schema = COALESCE(:schema, DATABASE())"""

    def __init__(self, dialect: SQLAlchemyDialect, table: str, schema: str | None) -> None:
        super().__init__(dialect, table, schema)
        self._insert = self.statement(self._INSERT)
        held = f"{self.FIND} LOCK IN SHARE MODE"
        self._find_held = self.statement(held)
        self._find_held_in_time = self.statement(f"{_IN_TIME} {held}")
        self._issue_in_time = self.statement(f"{_IN_TIME} {issuing(1)}")
        self._update = self.statement(Dialect.TAKE_OVER)
        self._update_issued = self.statement(Dialect.REDEEM)
        self._delete = self.statement(Dialect.FORGET)
        self._lock_wait = LockWait(self.statement)
        self._claim_at_once = self.statement(f"{LEND}; {self._INSERT}; {GIVE_BACK}")
        self._along = Along(self.statement, self.STORE)
        self._nowait = self.statement("SELECT 1 FROM {table} WHERE id = :id FOR UPDATE NOWAIT")

    def statement(self, template: str) -> Statement:
        kind = Written if self._dialect.driver == "pymysql" else Statement
        return kind(self.filled(template), self._dialect)

    def wait(self, wait: float) -> int:
        # Whole seconds, so a shorter wait is rounded up; 0 fails at once on MariaDB, MySQL is told 1.
        return ceil(wait)

    def claim(self, connection: Connection, values: Mapping[str, Any]) -> bool:
        try:
            if is_mariadb(connection):
                answer = self._claim(connection, values)
            elif takes_several(connection) and not self._lock_wait.suits(connection, values["wait"]):
                self._claim_in_one(connection, values)
                return True
            else:
                answer = self._bounded(connection, values, self._claim, self._insert)
        except Exception as error:
            said = said_by(self.is_driver_error, error)
            if said is not None and self.fault(said) is Fault.DUPLICATE:  # the primary key is the only unique index
                return False
            raise
        if answer.rowcount != 1:
            disbelieve(connection, self._insert.sql)
        return True

    def _claim_in_one(self, connection: Connection, values: Mapping[str, Any]) -> None:
        try:
            send_several(connection, self._claim_at_once, {**values, "wait": possible(values["wait"])}, (0, 1, 0))
        except BaseException:
            with self._lock_wait.put_back(connection):  # which it did not come to
                raise

    def take_over(self, connection: Connection, values: Mapping[str, Any]) -> bool:
        return bool(self._bounded(connection, values, self._take_over, self._update).rowcount == 1)

    def redeem(self, connection: Connection, values: Mapping[str, Any]) -> bool:
        return bool(self._bounded(connection, values, self._redeem, self._update_issued).rowcount == 1)

    def find(self, connection: Connection, values: Mapping[str, Any], look: Look) -> Any:
        # At READ UNCOMMITTED a plain SELECT shows what somebody else is about to roll back; at SERIALIZABLE it waits for
        # that, as long as the session does.
        level = level_of(connection)
        if level not in _DIRTY_OR_LOCKED:
            return super().find(connection, values, look)
        if look is Look.ASIDE:  # it would wait as the claim does, which waits in the right order
            return Answer((), 0)
        if look is Look.LEAVING and level == "SERIALIZABLE":  # the claim that was lost has locked what it met
            return super().find(connection, values, look)
        return self._bounded(connection, values, self._find_held_in_time, self._find_held)

    def store(self, connection: Connection, values: Mapping[str, Any], along: Any) -> bool:
        if along is None:
            return super().store(connection, values, along)
        try:
            along(connection, values)
        except Exception as error:
            said = said_by(self.is_driver_error, error)
            if said is not None and self.code(getattr(said, "orig", None) or said) in REFUSED:
                return False
            raise
        return True

    def along(self, connection: Connection) -> Any:
        return self._along(connection) if is_plain(connection.dialect.do_commit) else None

    def issue(self, connection: Connection, values: Mapping[str, Any], count: int) -> None:
        # No row stands in the way of a random id, but somebody's lock on the gap where it goes.
        one, template = count == 1, issuing(count)
        in_time = self._issue_in_time if one else self.statement(f"{_IN_TIME} {template}")
        self._bounded(connection, values, in_time, self._issue if one else self.statement(template))

    def forget(self, connection: Connection, values: Mapping[str, Any]) -> bool:
        if not values["wait"] and not is_mariadb(connection):
            self._nowait(connection, values)
        return bool(self._bounded(connection, values, self._forget, self._delete).rowcount == 1)

    def begun(self, connection: Connection) -> None:
        watch_end(connection)

    def refuse_held(self, connection: Connection, id: bytes) -> bool:
        if is_mariadb(connection):  # waits as short as it is told
            return False
        self._nowait(connection, {"id": id})
        return True

    def _bounded(
        self, connection: Connection, values: Mapping[str, Any], in_one: Statement, plain: Statement
    ) -> Answer:
        """Send a statement that waits for a lock no longer than its values say."""
        if is_mariadb(connection):
            return in_one(connection, values)
        with self.lending(connection, values["wait"]):
            return plain(connection, values)

    def lending(self, connection: Connection, wait: int) -> AbstractContextManager[None]:
        """Have what runs inside wait so many seconds for each lock; MySQL has no SET STATEMENT."""
        return self._lock_wait.bounded(connection, wait)

    @cached_property
    def _purging(self) -> Bites:
        return Bites(self)

    def delete_expired(self, connection: Connection, batch: int, rest: Any, *, careful: bool) -> Swept:
        return self._purging.delete(connection, batch, rest)  # which waits for nobody

    def table_bytes(self, connection: Connection, table: str, schema: str | None) -> int | None:
        size = self.statement(self.BYTES)(connection, {"table": table, "schema": schema}).scalar()
        return None if size is None else int(size)

    def unusable(self, connection: Connection) -> str | None:
        return super().unusable(connection) or garbled(connection)

    def commits_by_itself(self, connection: Connection) -> bool:
        is_connector = connection.dialect.driver == "mysqlconnector"
        return asked_autocommit(connection) if is_connector else super().commits_by_itself(connection)

    @classmethod
    def inside(cls, driver: Any) -> bool | None:
        # "No" is not for sure: PyMySQL and asyncmy hear of a transaction with the first answer to what writes.
        return in_transaction(driver) or None

    def half_read(self, connection: Connection) -> str | None:
        return half_read(connection)

    def in_transaction(self, connection: Connection) -> bool:
        return in_transaction(driver_of(connection)) is not False

    @contextmanager
    def waiting(self, connection: Connection, wait: float | None) -> Iterator[None]:
        if not wait or is_mariadb(connection):
            yield
            return
        with self.lending(connection, self.wait(wait)):  # MySQL has no FOR UPDATE WAIT
            yield

    def for_update(
        self, connection: Connection, rows: Select[Any], wait: float | None, of: list[Any] | None
    ) -> Select[Any]:
        locking = super().for_update(connection, rows, wait, of)
        return locking.suffix_with(f"WAIT {self.wait(wait)}") if wait and is_mariadb(connection) else locking

    def latest(self, rows: Select[Any]) -> Select[Any]:
        # At REPEATABLE READ a plain SELECT looks into the snapshot, where the row may still be as the caller believes.
        return rows.with_for_update()

    def lock_name(self, connection: Connection, id: bytes, wait: float | None, *, alone: bool) -> bool:
        alone = alone and not self.in_transaction(connection)
        until = None if wait is None else monotonic() + wait
        while True:
            try:
                self._take_name(connection, id, wait, alone)
                return True
            except Exception as error:
                # When the holder rolls back, its row vanishes under the waiters. InnoDB leaves each of them a lock on the
                # gap, which keeps all others from inserting: a deadlock, of which one is spared, at any isolation level
                # and with a SELECT … FOR UPDATE before it too. The transaction is gone with it. Where there was nothing in
                # it, whoever was not spared goes to the end of the queue, and its caller has only waited.
                if not alone or self.fault(error) is not Fault.RESTART:
                    raise
            if until is not None:
                wait = max(0, until - monotonic())

    def _take_name(self, connection: Connection, id: bytes, wait: float | None, alone: bool) -> None:
        # Above READ COMMITTED the look locks the gap where the row would be, and claims would wait for it: it is possible
        # only where the transaction can end with it, and elsewhere MySQL waits for a second.
        if wait == 0 and (alone or level_of(connection) in _GAPLESS):
            looked = self.refuse_held(connection, id)
            if looked and alone:
                self.statement("ROLLBACK")(connection)
        plain = self.statement(self.LOCK_NAME)
        values: dict[str, Any] = {"id": id}
        if wait is None:
            plain(connection, values)
        else:
            bounded = self.statement(f"{_IN_TIME} {self.LOCK_NAME}")
            self._bounded(connection, values | {"wait": self.wait(wait)}, bounded, plain)
        self._delete(connection, values)

    @classmethod
    def undid_all(cls, connection: Connection, error: BaseException) -> bool:
        # No driver tells: an error comes without the server's status.
        return timed_out(error) and bool(send(connection, "SELECT @@innodb_rollback_on_timeout").scalar())

    @classmethod
    def numbered(cls, error: BaseException) -> Fault | None:
        cause = getattr(error, "orig", None) or error
        if cls.code(cause) == 1180 and "error 149" in str(cause):
            return Fault.RESTART  # Group Replication says so of a deadlock
        return super().numbered(error)

    @classmethod
    def code(cls, error: BaseException) -> Any:
        return number(error)
