"""A savepoint in a transaction that somebody else began, and will end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sqlalchemy import Engine
from sqlalchemy.exc import InvalidRequestError, PendingRollbackError, UnboundExecutionError

from ..errors import SessionNotUsableError
from .second import connections
from .transaction import Transaction, is_open, stands

if TYPE_CHECKING:
    from sqlalchemy import Connection, RootTransaction
    from sqlalchemy.orm import SessionTransaction


class Joined(Transaction):
    """A savepoint in the caller's transaction: never commits it, never retries.

    The savepoint is round the claim too. Without it a caller who swallows the exception and commits would leave a key
    behind that has no result.
    """

    owned = False
    _savepoint: SessionTransaction | None = None
    _outer: RootTransaction | None = None

    def prepare(self) -> None:
        # Before the flush too: what is pending is sent by it.
        begun = connections(self.session)
        if why := self._half_read(begun) if begun else self._occupied():
            raise SessionNotUsableError(f"the session cannot carry a claim: {why}")
        try:
            self.session.flush()
        except PendingRollbackError as error:
            raise self._unusable() from error

    def _half_read(self, begun: list[Connection]) -> str | None:
        """Say that the session is reading what a statement would end."""
        for connection in begun:
            if why := self._place.records_of(connection, self.session).dialect.half_read(connection):
                return why
        return None

    def _occupied(self) -> str | None:
        """Say that somebody else is at work in the connection that the session would get."""
        try:
            bind = self.session.get_bind()
        except (UnboundExecutionError, AssertionError):  # which is told where the connection is taken
            return None
        return self._place.records_of(bind, self.session).dialect.occupied(bind) if isinstance(bind, Engine) else None

    def _unusable(self) -> SessionNotUsableError:
        session = self.session
        if session.in_transaction():
            why = "the session's transaction has failed or ended: roll it back (session.rollback()) before the call"
        elif not session.autobegin:
            why = "the session has no transaction, and autobegin=False: begin one (session.begin()) before the call"
        else:
            why = "the session was closed for good (close_resets_only=False): make another one for the call"
        return SessionNotUsableError(why)

    def _begin(self, wait: float) -> None:
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
            self._outer = self.connection.get_transaction()
            self.records = self._place.records_of(self.connection, self.session)
            dialect = self.records.dialect
            if why := dialect.unusable(self.connection):
                raise SessionNotUsableError(f"the session cannot carry a claim: {why}")
            self._enter()
        except (PendingRollbackError, InvalidRequestError) as error:
            raise self._unusable() from error
        self._root = self.session.get_transaction()
        dialect.join(self.connection, wait)

    def _enter(self) -> None:
        self._savepoint = self.session.begin_nested()  # flushes first: what is pending belongs to the caller
        self.session.connection()  # SAVEPOINT is only sent for the first statement that goes through the session

    def confirm(self, hold: Callable[[], bool], wait: float) -> bool:
        return hold()  # and the caller's COMMIT waits, also if nothing else is committed

    def intact(self, work: SessionTransaction | None = None) -> bool:
        savepoint = work or self._savepoint
        return savepoint is not None and stands(self.session, savepoint) and self._is_alive()

    def _is_alive(self) -> bool:
        return not self._is_passed and super()._is_alive()

    @property
    def _is_passed(self) -> bool:
        """Whether the connection was told to end the transaction, of which nobody tells the session."""
        return self.connection.get_transaction() is not self._outer

    def held(self) -> bool:
        return self._savepoint is not None and is_open(self.session, self._savepoint)

    def _commit(self, *, went: bool) -> None:
        assert self._savepoint is not None
        try:
            self.release(self._savepoint)
        except Exception as error:  # as below: the caller would commit the outcome without what was done before it
            self.records.dialect.give_up(self.connection, error)
            raise

    def _undo(self) -> None:
        # Also one that a failed flush has undone already: until it is left the caller's session refuses everything.
        if self.held():
            assert self._savepoint is not None
            if self._is_passed:  # SQLAlchemy would warn of a rollback
                self._savepoint.close()
                return
            try:
                self._savepoint.rollback()
            except Exception as error:  # it is gone, and the transaction with it
                self.records.dialect.give_up(self.connection, error)
                raise
