"""The two kinds of transaction a claim can live in: its own, or a savepoint in somebody else's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy.exc import (
    InvalidRequestError,
    OperationalError,
    PendingRollbackError,
    SQLAlchemyError,
    UnboundExecutionError,
)

from .dialects import Fault
from .errors import InProgressError, RetryTransactionError, SchemaError, SessionNotUsableError
from .schema import State, cure

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.orm import Session, SessionTransaction

    from .dialects import Dialect
    from .repository import Records
    from .settings import Settings


class Transaction(Protocol):
    """What the protocol needs of a transaction."""

    connection: Connection
    records: Records
    owned: bool

    def begin(self, session: Session, wait: float) -> None:
        """Begin in a session, waiting at most `wait` seconds where beginning takes a lock."""

    def restart(self, wait: float) -> None:
        """Undo what was done and begin again."""

    def intact(self, work: SessionTransaction | None) -> bool:
        """Say whether the business left the transaction, and the savepoint `work` in it, as they were."""

    def held(self) -> bool:
        """Say whether the session still is in it; a transaction in which nothing was sent yet is held too."""

    def commit(self) -> None:
        """Make it last, or part of the caller's."""

    def rollback(self) -> None:
        """Undo everything since `begin`."""


class Own:
    """A transaction of the library's own: begun here, committed here, begun again where that may help."""

    owned = True
    connection: Connection

    def __init__(self, settings: Settings, isolation_level: str | None = None) -> None:
        self.records = settings.records
        self._engine = settings.engine
        self._level = isolation_level
        self._root: SessionTransaction | None = None

    def begin(self, session: Session, wait: float) -> None:
        self._session = session
        options = self.records.dialect.begin_options(wait)
        if self._level is not None:
            options["isolation_level"] = self._level
        if not session.autobegin:
            session.begin()
        try:
            self.connection = _connection(session, options)
        except Exception as error:
            self._drop_dead(error)
            raise
        self._root = session.get_transaction()
        if why := self.records.dialect.unusable(self.connection):
            raise SessionNotUsableError(f"the engine cannot carry a claim: {why}")

    def restart(self, wait: float) -> None:
        self._session.rollback()
        self.begin(self._session, wait)

    def intact(self, work: SessionTransaction | None) -> bool:
        root = self._root
        return self.held() and root is not None and root.is_active and _stands(self, self._session, work)

    def held(self) -> bool:
        return self._session.get_transaction() is self._root

    def commit(self) -> None:
        try:
            self._session.commit()
        except Exception as error:
            self._drop_dead(error)
            raise

    def rollback(self) -> None:
        try:
            self._session.rollback()
        except Exception as error:
            self._drop_dead(error)
            raise

    def _drop_dead(self, error: Exception) -> None:
        # The raw error of PyMySQL or asyncmy, from setting an isolation level or putting it back: SQLAlchemy does not
        # notice that the connection is dead, would hand it out again, or lose its place in the pool for good.
        if not isinstance(error, SQLAlchemyError) and self.records.dialect.is_driver_error(error):
            self._engine.dispose(close=False)


class Joined:
    """A savepoint in the caller's transaction: never commits it, never retries.

    The savepoint is round the claim too. Without it a caller who swallows the exception and commits would leave a key
    behind that has no result.
    """

    owned = False
    connection: Connection

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.records = settings.records

    def begin(self, session: Session, wait: float) -> None:
        self._session = session
        try:
            if session.in_transaction():
                self.connection = _connection(session)
            else:
                # Nothing has begun: then it can begin as our own would, on SQLite with the write lock.
                self.connection = _connection(session, self.records.dialect.begin_options(wait))
            self.records = self._settings.records_of(self.connection)
            dialect = self.records.dialect
            if why := dialect.unusable(self.connection):
                raise SessionNotUsableError(f"the session cannot carry a claim: {why}")
            self._enter()
        except UnboundExecutionError as error:
            raise SessionNotUsableError(
                "the session has no engine of its own, only binds= for classes: give it bind= too, the claim needs it"
            ) from error
        except (PendingRollbackError, InvalidRequestError) as error:
            raise SessionNotUsableError(
                "the session's transaction has failed or ended: roll it back (session.rollback()) before the call"
            ) from error
        dialect.join(self.connection, wait)

    def restart(self, wait: float) -> None:
        self._savepoint.rollback()
        self._enter()

    def _enter(self) -> None:
        self._savepoint = self._session.begin_nested()  # flushes first: what is pending belongs to the caller
        self._session.connection()  # SAVEPOINT is only sent for the first statement that goes through the session

    def intact(self, work: SessionTransaction | None) -> bool:
        return _stands(self, self._session, work or self._savepoint)

    def held(self) -> bool:
        return is_open(self._session, self._savepoint)

    def commit(self) -> None:
        self._savepoint.commit()

    def rollback(self) -> None:
        savepoint = getattr(self, "_savepoint", None)
        # Also one that a failed flush has undone already: until it is left the caller's session refuses everything.
        if savepoint is not None and is_open(self._session, savepoint):
            savepoint.rollback()


def _connection(session: Session, options: dict[str, Any] | None = None) -> Connection:
    """Return the connection of a session, which may have to be made first."""
    try:
        return session.connection(execution_options=options or None)
    except OSError as error:
        # From asyncpg's connecting. SQLAlchemy has a name of its own for it with every other driver.
        raise OperationalError(None, None, error, connection_invalidated=True) from error


def _stands(transaction: Transaction, session: Session, savepoint: SessionTransaction | None) -> bool:
    """Say whether a savepoint is still open, and the server still in a transaction as far as the driver tells."""
    if savepoint is not None and not (is_open(session, savepoint) and savepoint.is_active):
        return False
    return transaction.records.dialect.in_transaction(transaction.connection)


def is_open(session: Session, savepoint: SessionTransaction) -> bool:
    """Say whether the session still is inside a savepoint; the business may have left some of its own open in it."""
    inner = session.get_nested_transaction()
    while inner is not None and inner is not savepoint:
        inner = inner.parent
    return inner is not None


def explain(
    error: Exception,
    dialect: Dialect,
    settings: Settings,
    scope: str,
    *,
    repeats: bool,
    before: BaseException | None = None,
) -> Exception | None:
    """Return what an error of one of our own statements before the business means, or ``None`` if it is not ours to say."""
    faults = dialect.faults_of(error, before)
    if Fault.NO_TABLE in faults:
        return SchemaError(
            f"the table {settings.table} is missing or outdated. "
            f"{cure(State(None, ()), settings.table, settings.schema)}"
        )
    if Fault.READ_ONLY in faults:
        return SessionNotUsableError(
            f"{scope}: the transaction is read-only, or this server is a replica: claims and replays need the primary"
        )
    if not repeats and Fault.DEAD in faults:
        return SessionNotUsableError(
            f"{scope}: the session's transaction has failed: roll it back before the call", scope=scope
        )
    if Fault.BUSY in faults and not faults & {Fault.RESTART, Fault.UNKNOWN}:
        return InProgressError(f"{scope}: {dialect.busy}; try again later", scope=scope, retry_after=1.0)
    if not repeats and faults & {Fault.RESTART, Fault.UNKNOWN}:
        return retry_error(scope)
    return None


def retry_error(scope: str, **facts: Any) -> RetryTransactionError:
    """Return the error that tells a caller to begin its transaction again."""
    return RetryTransactionError(
        f"{scope}: this transaction cannot go on: roll it back, begin again and call with the same key",
        scope=scope,
        **facts,
    )
