"""A transaction of the library's own: from BEGIN to COMMIT, and again where that may help."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary, ref

from sqlalchemy.orm import Session

from ..binding import drop_dead
from ..dialects.statement import hears
from ..dialects.words import AS_IT_IS
from ..errors import SessionNotUsableError
from . import steps
from .quiet import quiet
from .second import may_open, none_opened
from .transaction import Transaction, stands, unusable

if TYPE_CHECKING:
    from sqlalchemy import RootTransaction
    from sqlalchemy.orm import SessionTransaction

    from ..dialects import Dialect
    from ..settings import Place

_mutex: Final = threading.Lock()
_at_work: Final[WeakKeyDictionary[Any, list[ref[Own]]]] = WeakKeyDictionary()
"""The calls that are at work on a connection of somebody else's, the innermost last."""


class Own(Transaction):
    """A transaction of the library's own: begun here, committed here, begun again where that may help.

    Args:
        place: of the table.
        session: the Session that the business works in.
        joinable: what calls inside get.
        is_within: says whether code that runs here is inside a call that works in a session.
        isolation_level: instead of the engine's.
    """

    owned = True

    def __init__(
        self,
        place: Place,
        session: Session,
        joinable: Any,
        is_within: Callable[[Session], bool],
        isolation_level: str | None = None,
    ) -> None:
        super().__init__(place, session, joinable)
        self._begun: RootTransaction | None = None
        self.is_alone = not place.is_inside
        self._is_within = is_within
        self._level = isolation_level

    def _occupy(self) -> None:
        """Be the innermost call on a connection that is somebody else's.

        Raises:
            SessionNotUsableError: another call is at work there, which this one is not inside of. The savepoints of the two
                would undo each other, and whatever the database says of that names neither.
        """
        self._whose = threading.get_ident(), _task()
        with _mutex:
            here = _at_work.setdefault(self.session.bind, [])
            here[:] = [one for one in here if one() is not None]
            other = here[-1]() if here else None
            if other is not None and other._whose != self._whose and not self._is_within(other.session):
                raise SessionNotUsableError(
                    "the sessionmaker is bound to a Connection, on which a call of another thread or task is at work: one "
                    "connection is one transaction. Make one call after the other there, or bind it to the engine where "
                    "many are made at once"
                )
            here.append(ref(self))

    def _vacate(self) -> None:
        with _mutex:
            here = _at_work.get(self.session.bind, [])
            here[:] = [one for one in here if one() not in (None, self)]

    def _begin(self, wait: float) -> None:
        # Forgotten before another one is taken: the error with which that fails would be taken for somebody else's.
        self.connection = self._root = None  # type: ignore[assignment]
        place, session, dialect = self._place, self.session, self.records.dialect
        inside, options = place.is_inside, None
        if self._level is not None:
            if inside:
                raise SessionNotUsableError(
                    "isolation_level= cannot be chosen inside a transaction that is open: the sessionmaker is bound to a "
                    "Connection"
                )
            options = {"isolation_level": self._level}
        if not inside and (why := dialect.occupied(place.engine)):
            raise unusable(why)
        if inside:
            self._occupy()
        if not session.autobegin:
            session.begin()
        try:
            with AS_IT_IS if inside else dialect.beginning(wait):
                self.connection = self._connect(options)
        except Exception as error:
            drop_dead(place.engine, error)
            raise
        self._root, self._begun = session.get_transaction(), self.connection.get_transaction()
        dialect = self._spoken()
        if not inside:
            dialect.begun(self.connection)
        else:
            dialect.join(self.connection, wait)

    def _spoken(self) -> Dialect:
        """Speak as the connection does that was taken, if it can carry a claim."""
        self.records = self._place.records_of(self.connection, self.session)
        dialect = self.records.dialect
        if why := dialect.unusable(self.connection):
            raise unusable(why)
        return dialect

    def confirm(self, hold: Callable[[], bool], wait: float) -> bool:
        if not self.restart(hold, wait):
            self._undo()
            return False
        with quiet(self.session):  # to whoever listens to the session nothing was committed: it is a replay
            self._ended(self.session.commit)
        return True

    def intact(self, work: SessionTransaction | None = None) -> bool:
        root = self._root
        if root is None or self.session.get_transaction() is not root or not root.is_active:
            return False
        if self.connection.get_transaction() is not self._begun:  # ended past the session, at its connection
            return False
        return (work is None or stands(self.session, work)) and self._is_alive()

    def held(self) -> bool:
        return self.session.get_transaction() is self._root

    def _along(self) -> Any:
        session, connection = self.session, self.connection
        dialect = self.records.dialect
        if (
            not dialect.commits_along
            or not self.is_alone
            or steps.listeners
            or type(session).commit is not Session.commit
            or session.twophase
            or session.dispatch.before_commit
            or hears(connection, "commit")
            # What SQLAlchemy would send before COMMIT it would send after it: flush again, release a savepoint.
            or not session._is_clean()
            or session.get_nested_transaction() is not None
            or connection.in_nested_transaction()
        ):
            return None
        return dialect.along(connection)

    def _commit(self, *, went: bool) -> None:
        if went or not may_open(self.session):
            self._ended(self.session.commit)
            return
        with none_opened(self.session):
            self._ended(self.session.commit)

    def _undo(self) -> None:
        self._ended(self.session.rollback)

    def _ended(self, way: Callable[[], None]) -> None:
        try:
            way()
        except Exception as error:
            drop_dead(self._place.engine, error)
            if not self.is_alone:  # whoever began it would commit what came after the error without what came before it
                self.records.dialect.give_up(self.connection, error)
            raise
        finally:
            if not self.is_alone:
                self._vacate()

    def turn_away(self) -> None:
        if self.is_alone:
            self._place.engine.dispose()  # those in use come back to a pool that is no more


def _task() -> asyncio.Task[Any] | None:
    loop = asyncio._get_running_loop()
    return None if loop is None else asyncio.current_task(loop)
