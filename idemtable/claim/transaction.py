"""The two kinds of transaction a claim can live in: its own, or a savepoint in somebody else's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar
from weakref import WeakSet

from sqlalchemy import event
from sqlalchemy.exc import (
    InvalidRequestError,
    OperationalError,
    PendingRollbackError,
    SQLAlchemyError,
    UnboundExecutionError,
)
from sqlalchemy.orm import Session

from ..dialects.base import AS_IT_IS
from ..errors import SessionNotUsableError
from . import steps
from .quiet import quiet

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.orm import SessionTransaction

    from ..model import Request
    from ..repository import Records
    from ..settings import Place

T = TypeVar("T")

_cut: Final[WeakSet[Connection]] = WeakSet()
"""What was given up while somebody worked on it. The calls around that one are told by what their next statement says."""


class Transaction(ABC):
    """What an attempt needs of a transaction.

    It is entered with the first statement and left with the last one, so that a driver that can sends BEGIN with the one
    and COMMIT with the other.

    Attributes:
        owned: whether it begins and ends here.
        session: the Session that the business works in.
        connection: what statements go through, once it was entered.
        records: the statements in the words of that connection.
    """

    owned: ClassVar[bool]
    connection: Connection
    records: Records

    def __init__(self, place: Place, session: Session) -> None:
        self._place = place
        self.session = session
        self.records = place.records
        self.deferred: Any = None
        """The claim, if it waits for the function's first statement."""
        self._root: SessionTransaction | None = None
        self._watched = False
        self._heard = True

    def prepare(self) -> None:  # noqa: B027 - a new session has nothing that is somebody else's
        """Do what belongs to the caller before anything of ours, so that its errors are not taken for ours."""

    @property
    def is_alone(self) -> bool:
        """Whether it is a transaction of the database's, and not a savepoint in one."""
        return False

    def enter(self, first: Callable[[], T], wait: float) -> T:
        """Begin, and return what the first statement gives.

        Args:
            first: sends it. It may send none if it calls `watch`.
            wait: seconds to wait where beginning takes a lock.
        """
        self._begin(wait)
        return first()

    def glance(self, look: Callable[[], T]) -> T:
        """Return what a look gives, and leave nothing begun."""
        raise NotImplementedError  # of a transaction of one's own

    def defer(self, request: Request, wait: float) -> bool:
        """Have the claim travel with the function's first statement, and say whether it will."""
        return False

    def restart(self, first: Callable[[], T], wait: float) -> T:
        """Undo what was done, and enter again with another first statement."""
        self._undo()
        return self.enter(first, wait)

    def leave(self, last: Callable[[Any], bool], *, ends: bool = False) -> bool:
        """Send the last statement, and make everything last (or part of the caller's) if it says that all is well.

        Args:
            last: stores the outcome, and says whether it touched the one row that is the call's own. Given something that
                COMMIT is to travel by, it has nobody to ask in between: the statement fails by itself where the row is not.
            ends: whether it knows how to.

        Returns:
            What `last` said. After ``False`` nothing was committed.
        """
        along = self._along() if ends else None
        if not last(along):
            return False
        if along is None:
            self._commit()
        else:
            # Only SQLAlchemy is still to be told.
            with self.records.dialect.committed(self.connection):
                self._commit()
        self._unwatch()
        return True

    def rollback(self) -> None:
        """Undo everything since it was entered."""
        if self.deferred is not None:
            self.deferred.forget()
        self._unwatch()
        self._undo()

    def release(self, savepoint: SessionTransaction) -> None:
        """End a savepoint of ours, and keep what was done in it."""
        with quiet(self.session):
            savepoint.commit()

    def second_connection(self) -> str | None:
        """Say that the session holds another connection, which cannot be committed together with this one."""
        root = self.session.get_transaction()
        # Each is kept under itself and under its engine.
        if root is None or len(root._connections) <= 2 or len({id(one[0]) for one in root._connections.values()}) == 1:
            return None
        return (
            "its session works on two connections, and no COMMIT is of both: take binds= away, or write to the other "
            "database in a call of its own"
        )

    def cut(self) -> None:
        """Give the connection up while somebody else still works on it: the server undoes everything, and they fail."""
        self._unwatch()
        _cut.add(self.connection)
        self.records.dialect.cut(self.connection)
        self._undo()

    def let_go(self) -> None:
        """Give up a connection that was lost. SQLAlchemy does not notice every loss: the rollback would raise."""
        connection = getattr(self, "connection", None)
        if connection is not None and not self.is_cut and not connection.closed:
            with suppress(Exception):
                connection.invalidate()  # does nothing a second time

    @property
    def is_cut(self) -> bool:
        """Whether its connection was given up, by it or by a call inside it."""
        return getattr(self, "connection", None) in _cut

    @abstractmethod
    def intact(self, work: SessionTransaction | None = None) -> bool:
        """Say whether the business left the transaction, and the savepoint `work` in it, as they were."""

    @abstractmethod
    def held(self) -> bool:
        """Say whether the session still is in it; a transaction in which nothing was sent yet is held too."""

    @abstractmethod
    def _begin(self, wait: float | None) -> None:
        """Begin, taking the lock to write with where there is one, unless `wait` is ``None``."""

    @abstractmethod
    def _undo(self) -> None: ...

    @abstractmethod
    def _commit(self) -> None: ...

    def _along(self) -> Any:
        """Return what COMMIT can travel by with the last statement, if nobody has a say in between."""
        return None

    # --- a transaction in which the business speaks first -----------------------------------------------------------------

    def watch(self) -> None:
        """Notice from here on when the server first hears of the transaction, for nothing of ours was sent.

        Until the business has spoken (with PyMySQL, until it has written) drivers tell of no transaction. That one has
        ended can then only be seen where one was seen before.
        """
        assert not self._watched
        self._watched, self._heard = True, False
        event.listen(self.connection, "after_cursor_execute", self._listen)

    def _listen(self, connection: Connection, *statement: Any) -> None:
        self._heard = self._heard or self.records.dialect.in_transaction(connection)

    def _unwatch(self) -> None:
        if self._watched:
            self._watched = False
            event.remove(self.connection, "after_cursor_execute", self._listen)

    def _is_alive(self) -> bool:
        """Say whether the server still is in it, as far as the driver tells."""
        if not self._heard:
            return True
        try:
            return self.records.dialect.in_transaction(self.connection) and not self.is_cut
        except Exception:
            return False  # sqlite3 and aiosqlite do not tell of a connection that somebody has cut

    def is_uncommitted(self) -> bool:
        """Say whether the business left COMMIT alone: what is given back after it would be used a second time."""
        root = self._root
        if root is None:
            return True  # the business never began
        if self.session.get_transaction() is not root:
            return False
        # A failed flush or a lost connection has rolled back already, and there is no transaction to find.
        if not root.is_active or self.connection.invalidated:
            return True
        return self._is_alive()

    def _connect(self, options: dict[str, Any] | None = None) -> Connection:
        """Return the session's connection, which may have to be made first."""
        try:
            return self.session.connection(execution_options=options or None)
        except OSError as error:
            # From asyncpg's connecting. SQLAlchemy has a name of its own for it with every other driver.
            raise OperationalError(None, None, error, connection_invalidated=True) from error


class Own(Transaction):
    """A transaction of the library's own: begun here, committed here, begun again where that may help."""

    owned = True

    @property
    def is_alone(self) -> bool:
        return not self._place.is_inside

    def __init__(self, place: Place, session: Session, isolation_level: str | None = None) -> None:
        super().__init__(place, session)
        self._level = isolation_level

    def _begin(self, wait: float | None) -> None:
        inside = self._place.is_inside
        options: dict[str, Any] = {}
        if self._level is not None:
            if inside:
                raise SessionNotUsableError(
                    "isolation_level= cannot be chosen inside a transaction that is open: the sessionmaker is bound to a "
                    "Connection"
                )
            options["isolation_level"] = self._level
        if not inside and (why := self.records.dialect.occupied(self._place.engine)):
            raise SessionNotUsableError(f"the engine cannot carry a claim: {why}")
        if not self.session.autobegin:
            self.session.begin()
        try:
            with AS_IT_IS if inside or wait is None else self.records.dialect.beginning(wait):
                self.connection = self._connect(options)
        except Exception as error:
            self._drop_dead(error)
            raise
        self.records = self._place.records_of(self.connection, self.session)
        self._root = self.session.get_transaction()
        if why := self.records.dialect.unusable(self.connection):
            raise SessionNotUsableError(f"the engine cannot carry a claim: {why}")
        if inside and wait is not None:
            self.records.dialect.join(self.connection, wait)

    def defer(self, request: Request, wait: float) -> bool:
        self._begin(wait)
        self.deferred = self.records.defer(self.connection, request, wait)
        return self.deferred is not None

    def glance(self, look: Callable[[], T]) -> T:
        self._begin(None)
        found = look()
        self._undo()
        return found

    def intact(self, work: SessionTransaction | None = None) -> bool:
        root = self._root
        if root is None or self.session.get_transaction() is not root or not root.is_active:
            return False
        return (work is None or _stands(self.session, work)) and self._is_alive()

    def held(self) -> bool:
        return self.session.get_transaction() is self._root

    def _along(self) -> Any:
        session, connection = self.session, self.connection
        if (
            not self.is_alone
            or steps.listeners
            or type(session).commit is not Session.commit
            or session.twophase
            or session.dispatch.before_commit
            or connection.engine.dispatch.commit
            # What SQLAlchemy would send before COMMIT it would send after it: flush again, release a savepoint.
            or not session._is_clean()
            or session.get_nested_transaction() is not None
            or connection.in_nested_transaction()
        ):
            return None
        return self.records.dialect.along(connection)

    def _commit(self) -> None:
        try:
            self.session.commit()
        except Exception as error:
            self._drop_dead(error)
            raise

    def _undo(self) -> None:
        try:
            self.session.rollback()
        except Exception as error:
            self._drop_dead(error)
            raise

    def _drop_dead(self, error: Exception) -> None:
        # The raw error of PyMySQL or asyncmy, from setting an isolation level or putting it back: SQLAlchemy does not
        # notice that the connection is dead, would hand it out again, or lose its place in the pool for good.
        if not isinstance(error, SQLAlchemyError) and self.records.dialect.is_driver_error(error):
            self._place.engine.dispose(close=False)


class Joined(Transaction):
    """A savepoint in the caller's transaction: never commits it, never retries.

    The savepoint is round the claim too. Without it a caller who swallows the exception and commits would leave a key
    behind that has no result.
    """

    owned = False
    _savepoint: SessionTransaction | None = None

    def prepare(self) -> None:
        try:
            self.session.flush()
        except PendingRollbackError as error:
            raise SessionNotUsableError(
                "the session's transaction has failed or ended: roll it back (session.rollback()) before the call"
            ) from error

    def _begin(self, wait: float | None) -> None:
        assert wait is not None  # of somebody else's transaction nobody knows what it is for
        if self._savepoint is not None:  # entered before, and checked
            self._enter()
            return
        try:
            if self.session.in_transaction():
                self.connection = self._connect()
            else:
                # Nothing has begun: then it can begin as our own would, on SQLite with the write lock.
                with self.records.dialect.beginning(wait):
                    self.connection = self._connect()
            self.records = self._place.records_of(self.connection, self.session)
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
        self._root = self.session.get_transaction()
        dialect.join(self.connection, wait)

    def _enter(self) -> None:
        self._savepoint = self.session.begin_nested()  # flushes first: what is pending belongs to the caller
        self.session.connection()  # SAVEPOINT is only sent for the first statement that goes through the session

    def intact(self, work: SessionTransaction | None = None) -> bool:
        savepoint = work or self._savepoint
        return savepoint is not None and _stands(self.session, savepoint) and self._is_alive()

    def held(self) -> bool:
        return self._savepoint is not None and is_open(self.session, self._savepoint)

    def _commit(self) -> None:
        assert self._savepoint is not None
        self.release(self._savepoint)

    def _undo(self) -> None:
        # Also one that a failed flush has undone already: until it is left the caller's session refuses everything.
        if self.held():
            assert self._savepoint is not None
            try:
                self._savepoint.rollback()
            except Exception as error:  # it is gone, and the transaction with it
                self.records.dialect.give_up(self.connection, error)
                raise


def _stands(session: Session, savepoint: SessionTransaction) -> bool:
    return is_open(session, savepoint) and savepoint.is_active


def is_open(session: Session, savepoint: SessionTransaction) -> bool:
    """Say whether the session still is inside a savepoint; the business may have left some of its own open in it."""
    inner = session.get_nested_transaction()
    while inner is not None and inner is not savepoint:
        inner = inner.parent
    return inner is not None
