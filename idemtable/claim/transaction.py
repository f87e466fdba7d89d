"""What a claim needs of a transaction, be it its own or a savepoint in somebody else's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar
from weakref import ref

from sqlalchemy.exc import OperationalError, UnboundExecutionError
from sqlalchemy.orm import Session

from ..dialects.origin import hear, unhear
from ..errors import SessionNotUsableError
from ..nature import by_nature
from .quiet import quiet

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.orm import SessionTransaction

    from ..model import Request
    from ..repository import Records
    from ..settings import Place

T = TypeVar("T")

_cut: Final[dict[int, ref[Connection]]] = {}
"""What was given up while somebody worked on it. The calls around that one are told by what their next statement says.

By number: each call looks here, and a WeakSet makes a reference to look for."""


class Transaction(ABC):
    """What an attempt needs of a transaction.

    It is entered with the first statement and left with the last one, so that a driver that can sends BEGIN with the one
    and COMMIT with the other.

    Attributes:
        owned: whether it begins and ends here.
        session: the Session that the business works in.
        joinable: what calls inside get: that session, or the AsyncSession round it.
        connection: what statements go through, once it was entered.
        mark: a savepoint by which the transaction is known where no row of the call's own is.
        departed: whether COMMIT may have been sent: nobody can say for sure that nothing was committed.
        records: the statements in the words of that connection.
        is_alone: whether it is a transaction of the database's, and not a savepoint in one.
    """

    owned: ClassVar[bool]
    joinable: Any
    connection: Connection
    records: Records
    is_alone = False
    mark: str

    def __init__(self, place: Place, session: Session, joinable: Any = None) -> None:
        self._place = place
        self.session = session
        self.joinable = session if joinable is None else joinable
        self.records = place.records
        self.deferred: Any = None
        """The claim, if it waits for the function's first statement."""
        self._root: SessionTransaction | None = None
        self._watched = False
        self._heard = True
        self.departed = False

    def prepare(self) -> None:  # noqa: B027 - a new session has nothing that is somebody else's
        """Do what belongs to the caller before anything of ours, so that its errors are not taken for ours."""

    def enter(self, first: Callable[[], T], wait: float) -> T:
        """Begin, and return what the first statement gives.

        Args:
            first: sends it. It may send none if it calls `watch`.
            wait: seconds to wait where beginning takes a lock.
        """
        self._begin(wait)
        return first()

    def defer(self, request: Request, wait: float) -> bool:
        """Have the claim travel with the function's first statement, and say whether it will; once entered."""
        self.deferred = self.records.defer(self.connection, request, wait)
        if self.deferred is None:
            return False
        self.deferred.session = ref(self.session)
        return True

    @abstractmethod
    def confirm(self, hold: Callable[[], bool], wait: float) -> bool:
        """Wait until the database would acknowledge a row that was found, and say whether it still is there.

        Args:
            hold: makes COMMIT stand for the row, and says whether it is there.
            wait: seconds to wait where beginning takes a lock.
        """

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
        self._commit(went=along is not None)
        self._unwatch()
        return True

    def await_departure(self) -> None:
        """Take COMMIT for sent from when SQLAlchemy sends it, where somebody has to know.

        A program's own ``before_commit``, or a flush that comes of it, may fail before that.
        """
        for name in ("commit", "prepare_twophase"):
            hear(self.connection, name, self._depart)

    def _depart(self, connection: Connection, xid: Any = None) -> None:
        self.departed = True

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

    def cut(self) -> None:
        """Give the connection up while somebody else still works on it: the server undoes everything, and they fail."""
        self._unwatch()
        _given_up(self.connection)
        self.records.dialect.cut(self.connection)
        self._undo()

    def let_go(self) -> None:
        """Give up a connection that was lost. SQLAlchemy does not notice every loss: the rollback would raise."""
        connection = getattr(self, "connection", None)
        if connection is not None and not self.is_cut and not connection.closed:
            with suppress(Exception):
                connection.invalidate()  # does nothing a second time

    def turn_away(self) -> None:  # noqa: B027 - where the connection is somebody else's, it is theirs to change
        """Keep the pool's other connections to this server from being used."""

    @property
    def is_cut(self) -> bool:
        """Whether its connection was given up, by it or by a call inside it."""
        return id(getattr(self, "connection", None)) in _cut

    @property
    def is_lost(self) -> bool:
        """Whether its connection is gone, whoever has given it up, so that nothing of it can be committed."""
        connection = getattr(self, "connection", None)
        return self.is_cut or (connection is not None and bool(connection.invalidated))

    @abstractmethod
    def intact(self, work: SessionTransaction | None = None) -> bool:
        """Say whether the business left the transaction, and the savepoint `work` in it, as they were."""

    @abstractmethod
    def held(self) -> bool:
        """Say whether the session still is in it; a transaction in which nothing was sent yet is held too."""

    @abstractmethod
    def _begin(self, wait: float) -> None:
        """Begin, taking the lock to write with where there is one."""

    @abstractmethod
    def _undo(self) -> None: ...

    @abstractmethod
    def _commit(self, *, went: bool) -> None:
        """Make everything last; `went`: COMMIT went along with the last statement, and only SQLAlchemy is to be told."""

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
        hear(self.connection, "after_cursor_execute", self._listen)

    def _listen(self, connection: Connection, *statement: Any) -> None:
        self._heard = self._heard or self.records.dialect.in_transaction(connection)

    def _unwatch(self) -> None:
        if self._watched:
            self._watched = False
            unhear(self.connection, "after_cursor_execute", self._listen)

    def _is_alive(self) -> bool:
        """Say whether the server still is in it, as far as the driver tells."""
        if not self._heard:
            return True
        try:
            return self.records.dialect.in_transaction(self.connection) and not self.is_cut
        except Exception as error:  # sqlite3 and aiosqlite do not tell of a connection that somebody has cut
            if not by_nature(error, lambda: self.records.dialect.in_transaction(self.connection)):
                raise
            return False

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
        """Return the session's connection; it may have to be made first."""
        return connected(connection_of, self.session, "claim", options)


def _given_up(connection: Connection) -> None:
    number = id(connection)
    _cut[number] = ref(connection, lambda _: _cut.pop(number, None))


def connected(way: Callable[..., Connection], *args: Any) -> Connection:
    """Take a connection in some way, and raise what keeps it from being made as an error of SQLAlchemy's."""
    try:
        return way(*args)
    except OSError as error:
        # From asyncpg's connecting. SQLAlchemy has a name of its own for it with every other driver.
        raise OperationalError(None, None, error, connection_invalidated=True) from error


def unusable(why: str) -> SessionNotUsableError:
    """Return the error of an engine that cannot carry a claim."""
    return SessionNotUsableError(f"the engine cannot carry a claim: {why}")


def connection_of(session: Session, need: str, options: dict[str, Any] | None = None) -> Connection:
    """Return the connection that a session has for what is of no class of its tables.

    Args:
        session: whose.
        need: what it is for, for the message.
        options: execution options.

    Raises:
        SessionNotUsableError: it has none.
    """
    try:
        return session.connection(execution_options=options)
    except UnboundExecutionError as error:
        raise SessionNotUsableError(
            f"the session has no engine of its own, only binds= for classes: give it bind= too, the {need} needs it"
        ) from error
    except AssertionError as error:
        if type(session).get_bind.__module__ != "sqlalchemy.ext.horizontal_shard":
            raise
        raise SessionNotUsableError(
            f"a ShardedSession has no connection that is not of one shard, and no COMMIT is of two: the {need} needs a "
            f"Session of one shard's engine, and a table there"
        ) from error


def stands(session: Session, savepoint: SessionTransaction) -> bool:
    """Say whether the session still is inside a savepoint that nothing has undone."""
    return is_open(session, savepoint) and savepoint.is_active


def is_open(session: Session, savepoint: SessionTransaction) -> bool:
    """Say whether the session still is inside a savepoint; the business may have left some of its own open in it."""
    inner = session.get_nested_transaction()
    while inner is not None and inner is not savepoint:
        inner = inner.parent
    return inner is not None
