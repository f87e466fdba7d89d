"""What a database must tell the library, and what all of them share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

from sqlalchemy.exc import DBAPIError

from .amid import give_up_amid
from .definition import Definition
from .fragments import FORGET, REDEEM, STORE, TAKE_OVER, issuing
from .inherited import leave_to_parent
from .origin import listen
from .purging import Sweeping
from .shared import occupied
from .statement import Answer, Statement
from .told import commits_by_itself
from .words import AS_IT_IS, Fault, Look, asks_autocommit, driver_of, hang_up, wire

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, Select, Table
    from sqlalchemy.engine.interfaces import Dialect as SQLAlchemyDialect


class Dialect(Sweeping, Definition):
    """One database's ways: what differs from the others, and nothing else.

    Templates name the table as ``{table}``, the column ``key`` (a reserved word of MySQL) as ``{key}``, the clock as
    ``{now}``, the moment `ttl` microseconds from it as ``{later}`` and a minute ago as ``{past}``; the moment when a row
    expires is ``{expires}``.
    """

    reads_in_place: ClassVar[bool]
    """Whether the transaction that lost a claim can read the winner's row."""
    reads_after_a_claim: ClassVar[bool] = False
    """Whether at least a transaction can that has read nothing before: its snapshot is taken by the look."""
    locks_gaps: ClassVar[bool] = False
    """Whether a change of a row that is not there keeps others from inserting theirs until the transaction ends."""
    clocks: ClassVar[tuple[str, ...]]
    """What in `now`, `later` and `past` asks the database for the time."""
    moment: ClassVar[str]
    """What can stand in its place where a test has stopped the clock; ``{}`` is a time in UTC."""
    now: ClassVar[str]
    later: ClassVar[str]
    past: ClassVar[str]
    """A minute ago."""
    expires: ClassVar[str]
    """When a row expires: its column, and for a key's result what the call took besides."""
    commits_along: ClassVar[bool] = False
    """Whether there are drivers with which COMMIT can travel with the statement before it."""
    defers: ClassVar[bool] = False
    """Whether a claim can travel with a statement of the function's."""
    begins_unasked: ClassVar[bool] = False
    """Whether the statement after an error that ended the transaction begins another one, of which nobody is told."""
    dies_unnoticed: ClassVar[bool] = False
    """Whether a lost connection may be told of by the driver's own error, past SQLAlchemy."""
    skips_equal: ClassVar[bool] = False
    """Whether an UPDATE that leaves a row as it is writes nothing."""
    busy: ClassVar[str] = "the first call with this key is still running"
    """What it means that somebody held the claim for longer than it might wait."""
    faults: ClassVar[Mapping[Any, Fault]]
    stale: ClassVar[Collection[Any]] = ()
    """Codes that say that a row was changed since the transaction's snapshot."""

    CLAIM: ClassVar[str]
    TAKE_OVER: ClassVar[str] = TAKE_OVER
    REDEEM: ClassVar[str] = REDEEM
    STORE: ClassVar[str] = STORE
    FORGET: ClassVar[str] = FORGET
    settled: ClassVar[str] = "1"
    """Whether what a look finds can be lost no more than anything that was acknowledged."""
    FIND: ClassVar[str] = """
        SELECT tenant, scope, {key}, status, fingerprint, codec, result, created_at, completed_at, expires_at, owner,
            {now}, {settled} FROM {table} WHERE id = :id"""
    variables: ClassVar[int] = 32_767
    """The most variables of one statement; asyncpg counts them in a signed 16-bit integer, PostgreSQL in an unsigned."""
    EXACTLY: ClassVar[str] = "{column} = :{column}"
    """Compares a column of names with a value; ``:{column}_length`` is the value's number of characters."""
    BYTES: ClassVar[str] = "SELECT NULL"

    def __init__(self, dialect: SQLAlchemyDialect, table: str, schema: str | None) -> None:
        quote = dialect.identifier_preparer.quote
        self.table = f"{quote(schema)}.{quote(table)}" if schema else quote(table)
        self._dialect = dialect
        self._key = quote("key")
        self._claim = self.statement(self.CLAIM)
        self._take_over = self.statement(self.TAKE_OVER)
        self._redeem = self.statement(self.REDEEM)
        self._store = self.statement(self.STORE)
        self._find = self.statement(self.FIND)
        self._forget = self.statement(self.FORGET)
        self._issue = self.statement(issuing(1))
        dbapi = dialect.dbapi
        self._driver_errors: tuple[type[BaseException], ...] = (DBAPIError, *((dbapi.Error,) if dbapi else ()))

    def statement(self, template: str) -> Statement:
        """Compile a template for this table."""
        return Statement(self.filled(template), self._dialect)

    def filled(self, template: str) -> str:
        """Return a template in the words of this table and database."""
        return template.format(
            table=self.table, key=self._key, settled=self.settled,
            now=self.now, later=self.later, past=self.past, expires=self.expires,
        )  # fmt: skip

    # --- values -------------------------------------------------------------------------------------------------------

    def id(self, id: bytes) -> Any:
        """Return the primary key as SQLAlchemy's column takes it."""
        return id

    def time(self, value: Any) -> datetime | None:
        """Return the driver's form of a timestamp as an aware datetime in UTC."""
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)  # type: ignore[no-any-return]

    # --- statements that differ ---------------------------------------------------------------------------------------

    def wait(self, wait: float) -> Any:
        """Return a lock time-out, given in seconds, as this database counts it."""
        return wait

    @abstractmethod
    def claim(self, connection: Connection, values: Mapping[str, Any]) -> bool:
        """Insert the row unless its id is there; wait for a transaction that holds the id. Say whether it was won."""

    def defer(self, connection: Connection, values: Mapping[str, Any]) -> Any:
        """Have the claim travel with the function's first statement; return it, or ``None`` where it cannot."""
        return None

    def refuse_held(self, connection: Connection, id: bytes) -> bool:
        """Raise `Fault.BUSY` at once if somebody holds a row, where the claim itself would wait for a while.

        Returns:
            Whether it looked. The look may hold up others until its transaction ends, and must be the last of it.
        """
        return False

    def take_over(self, connection: Connection, values: Mapping[str, Any]) -> bool:
        """Make an expired row ours unless somebody else was faster."""
        return self._take_over(connection, values).rowcount == 1

    def issue(self, connection: Connection, values: Mapping[str, Any], count: int) -> None:
        """Insert the rows of `count` tokens."""
        (self._issue if count == 1 else self.statement(issuing(count)))(connection, values)

    def redeem(self, connection: Connection, values: Mapping[str, Any]) -> bool:
        """Make an issued token's row ours unless it is spent or expired; wait for a transaction that redeems it."""
        return self._redeem(connection, values).rowcount == 1

    def find(self, connection: Connection, values: Mapping[str, Any], look: Look) -> Answer:
        """Read a row as it was committed."""
        return self._find(connection, values)

    def hold(self, connection: Connection, values: Mapping[str, Any]) -> bool:
        """Have the transaction's COMMIT stand for a row that `settled` does not yet: say whether the row is there."""
        raise AssertionError("a row that can be read is settled here")

    def store(self, connection: Connection, values: Mapping[str, Any], along: Any) -> bool:
        """Put an outcome into a claim's row; say whether there was exactly one that is the claim's own.

        Args:
            connection: that is in the claim's transaction.
            values: of the row.
            along: what `along` returned, to commit it too if it was the claim's.
        """
        return self._store(connection, values).rowcount == 1

    def forget(self, connection: Connection, values: Mapping[str, Any]) -> bool:
        """Delete a row, waiting for a transaction that holds it; say whether there was one."""
        return self._forget(connection, values).rowcount == 1

    def table_bytes(self, connection: Connection, table: str, schema: str | None) -> int | None:
        """Return the size of the table with its indexes, if the database tells."""
        return None

    # --- transactions -------------------------------------------------------------------------------------------------

    def prepare(self, engine: Engine) -> None:
        """Put on an engine what its transactions need; doing it twice is harmless."""
        listen(engine)
        give_up_amid(engine)
        if not self.in_memory(engine.url):
            leave_to_parent(engine)

    def begin_options(self, wait: float) -> dict[str, Any]:
        """Return execution options for a connection that begins one of the library's own transactions."""
        return {}

    def beginning(self, wait: float) -> AbstractContextManager[None]:
        """Let the transaction of a session that begins inside begin as the library's own do."""
        return AS_IT_IS

    def occupied(self, engine: Engine) -> str | None:
        """Say why an engine can begin no transaction of the library's own now, with the cure; ``None`` if it can."""
        return occupied(engine.pool, self.inside)

    def join(self, connection: Connection, wait: float) -> None:
        """Take what must be held before a claim in a transaction that somebody else began."""

    def unusable(self, connection: Connection) -> str | None:
        """Say why a session's connection cannot carry a claim, with the cure; ``None`` if it can."""
        if asks_autocommit(connection) or self.commits_by_itself(connection):
            return "it is in AUTOCOMMIT: nothing would be atomic. Use an engine or session without that isolation level"
        return None

    def commits_by_itself(self, connection: Connection) -> bool:
        """Say whether the driver was told to commit each statement, in ``connect_args`` or later."""
        return commits_by_itself(connection)

    def half_read(self, connection: Connection) -> str | None:
        """Say why a session's next statement would lose rows that it is still reading, with the cure; ``None`` if not."""
        return None

    def begun(self, connection: Connection) -> None:
        """Prepare for the end of a transaction of the library's own, of which nothing was sent yet."""

    def along(self, connection: Connection) -> Any:
        """Return what COMMIT can travel by with the statement before it, past SQLAlchemy; ``None`` if there is nothing."""
        return None

    @classmethod
    def inside(cls, driver: Any) -> bool | None:
        """Say whether a driver's connection is in a transaction; ``None`` if that is not for sure."""
        return None

    def in_transaction(self, connection: Connection) -> bool:
        """Say whether the server still is in a transaction, as far as the driver tells; ``True`` if it does not."""
        return self.inside(driver_of(connection)) is not False

    def mark(self, connection: Connection) -> str | None:
        """Return what tells a transaction that has written from every other one; ``None`` where nothing does."""
        return None

    def give_up(self, connection: Connection, error: Exception) -> None:
        """Keep a session from going on where an error has ended its transaction, until it rolls back.

        Where the next statement begins another one COMMIT would keep what comes after the error without what came before.
        """
        if self.begins_unasked and not connection.invalidated:
            with suppress(Exception):  # what is being raised matters more
                connection.invalidate(error)

    def cut(self, connection: Connection) -> None:
        """Keep what somebody else may be in the middle of sending from being done, and the connection from further use.

        The transaction is not undone here, but whoever undoes it need not wait long. A connection that has a socket is hung
        up, not closed: to close it frees what another thread or task is reading from, and psycopg's process dies of that.
        Its pool closes it when it is to be used again, or when it is found dead.
        """
        driver = driver_of(connection)
        if (line := wire(driver)) is None:  # asyncpg, asyncmy, aiosqlite: closing them ends what is under way
            connection.invalidate()
            return
        connection.connection.invalidate(soft=True)
        hang_up(line)

    # --- guards -------------------------------------------------------------------------------------------------------

    def unlockable(self, connection: Connection) -> str | None:
        """Say why a lock taken here would not last until COMMIT, with the cure; ``None`` if it does."""
        return self.unusable(connection)

    @contextmanager
    def waiting(self, connection: Connection, wait: float | None) -> Iterator[None]:
        """Bound what runs inside to `wait` seconds for each lock, and keep the transaction usable when they run out."""
        yield

    def for_update(
        self, connection: Connection, rows: Select[Any], wait: float | None, of: list[Any] | None
    ) -> Select[Any]:
        """Make a SELECT lock its rows (those of some tables where others are joined) for use inside `waiting`."""
        return rows.with_for_update(nowait=wait == 0, of=of)

    def latest(self, rows: Select[Any]) -> Select[Any]:
        """Make a SELECT see what an UPDATE of the same transaction would have met."""
        return rows

    def lock_writes(self, connection: Connection, table: Table) -> None:
        """Take what must be held before rows of a table can be locked."""

    @abstractmethod
    def lock_name(self, connection: Connection, id: bytes, wait: float | None, *, alone: bool) -> bool:
        """Hold a lock that has no row until the transaction ends; say whether it was free, or raise `Fault.BUSY`.

        Args:
            connection: in whose transaction.
            id: of the lock.
            wait: seconds, or ``None`` for as long as the database waits.
            alone: whether nothing was done in the transaction before: nobody would notice if it began again.
        """

    # --- errors -------------------------------------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def code(cls, error: BaseException) -> Any:
        """Return the driver's code of an error."""

    def is_driver_error(self, error: BaseException) -> bool:
        """Say whether an error is the database's or the driver's own."""
        return isinstance(error, self._driver_errors)

    def is_of_another_driver(self, error: BaseException) -> bool:
        """Say whether an error is that of a driver of another kind, and so of another database."""
        dbapi, orig = self._dialect.dbapi, getattr(error, "orig", None)
        if dbapi is None or not isinstance(error, DBAPIError) or isinstance(orig, dbapi.Error):
            return False
        return any(cls.__name__ == "Error" for cls in type(orig).__mro__)

    def fault(self, error: BaseException) -> Fault | None:
        """Say what one error means, without what led to it (see `claim.verdict`)."""
        if not self.is_driver_error(error):
            return None
        if getattr(error, "connection_invalidated", False):
            return Fault.UNKNOWN
        return self.numbered(error)

    def misread(self, error: BaseException) -> str | None:
        """Say why the driver could not read what it was sent, with the cure; ``None`` for any other error."""
        return None

    def is_standby(self, connection: Connection) -> bool:
        """Say whether a connection's server only follows another one, where no error has told that already."""
        return False

    @classmethod
    def numbered(cls, error: BaseException) -> Fault | None:
        """Say what the number of a database's error means, for whoever has no table and no engine."""
        return cls.faults.get(cls.code(getattr(error, "orig", None) or error))
