"""The claim that waits for the function's first statement and travels with it, for PostgreSQL through psycopg.

For functions that only touch the database, by their own request: they run before anybody knows whether the claim is theirs.
Where it is not, their first statement is never done: the claim fails, and the server does nothing after it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn
from weakref import ref

from sqlalchemy import event

from ..errors import RetryTransactionError
from .origin import listen_once, said_by
from .words import driver_of, is_plain

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine
    from sqlalchemy.orm import Session

    from .packet import Heard

_MARK: Final = "idemtable_deferred"


class Deferred:
    """A claim that was not sent yet.

    It waits on the pool's wrapper, which lasts as long as the transaction. On the driver's own connection it would be there
    for whoever has that next, where the function has ended its transaction before it sent anything.

    Args:
        connection: that is in no transaction of the server's.
        queue: puts BEGIN, and a claim that fails where the key is taken, into the pipeline that is open.
        send: sends the claim by itself, and says whether it was won.
        is_databases: says of an error whether it is the database's.
    """

    def __init__(
        self,
        connection: Connection,
        queue: Callable[[], Heard],
        send: Callable[[], bool],
        is_databases: Callable[[BaseException], bool],
    ) -> None:
        pooled: Any = connection.connection
        self._connection = ref(connection)
        self._driver = driver_of(connection)
        self._queue = queue
        self._send: Callable[[], bool] | None = send
        self._is_databases = is_databases
        self.is_lost = False
        """Whether the function was let go on without it, by what the database said: nothing that it does can stay."""
        self.session: ref[Session] | None = None
        """Which begins nothing anew where it is lost: what the function did then would be done without a key."""
        setattr(pooled, _MARK, self)
        pooled.commit = self._commit

    @property
    def waits(self) -> bool:
        """Whether it is still to be sent."""
        return self._send is not None

    def take(self) -> bool:
        """Send the claim, unless it has travelled; say whether it is the call's own."""
        if (send := self._send) is not None:
            self.forget()
            if not send():
                self._lose()
        return not self.is_lost

    def _lose(self) -> None:
        self.is_lost = True
        session = None if self.session is None else self.session()
        if session is not None:  # it ends with this attempt
            event.listen(session, "after_begin", _refuse)

    def forget(self) -> None:
        """Let it travel with nothing any more."""
        # What sends it knows the connection, and that the wrapper which knows this: only the collector of cycles would find
        # the three.
        self._send = None

    def require(self) -> None:
        """Send the claim, or go no further where the key is taken."""
        try:
            taken = self.take()
        except Exception as error:
            # Raised into the function, which may make anything of it. What it means is for an attempt that claims first to
            # say; but a time limit, which a signal handler raises in the middle, means what it says.
            if said_by(self._is_databases, error) is not None:
                self._lose()
            raise
        if not taken:
            _refuse()

    def _commit(self) -> None:
        connection = self._connection()
        try:
            # By a function that ends its transaction itself: what it does after that must not be without a key. Not by the
            # pool, which may be told to reset with a COMMIT what was rolled back: a key without a result would be left.
            if connection is not None and connection.in_transaction():
                self.require()
        except BaseException:
            # SQLAlchemy takes a COMMIT that has raised for one that was sent, and sends no ROLLBACK after it: in a
            # pool that sends none either the claim's transaction would stay open, and the key locked.
            try:
                self._driver.rollback()
            except Exception:
                self._driver.close()
            raise
        self._driver.commit()

    def carry(
        self,
        cursor: Any,
        statement: str,
        execute: Callable[[], Any],
        give_up: Callable[[BaseException], object],
        *,
        together: bool,
    ) -> bool:
        """Send it before or with the function's first statement; say whether that was executed here.

        Args:
            cursor: the driver's.
            statement: the function's.
            execute: executes it.
            give_up: gives the connection up for an error.
            together: whether nobody else has a say in how.

        Raises:
            psycopg.Error: what the server says of whichever has failed. RetryTransactionError: the key is taken.
        """
        # A cursor of the server's, and several statements in one text, go through no pipeline.
        if not together or type(cursor) is not self._driver.cursor_factory or ";" in statement.rstrip("; \n"):
            self.require()
            return False
        self._ride(execute, give_up)
        return True

    def _ride(self, execute: Callable[[], Any], give_up: Callable[[BaseException], object]) -> None:
        self.forget()
        driver = self._driver
        claim: Heard | None = None
        failed: BaseException | None = None
        answered: BaseException | None = None
        try:
            with driver.pipeline():
                try:
                    # psycopg would begin by itself, and wait for the answer.
                    driver._autocommit = True
                    claim = self._queue()
                    execute()
                except Exception as error:  # raised below: the pipeline would log all that it finds behind it
                    failed = error
                finally:
                    driver._autocommit = False
        except Exception as error:
            answered = error
        if answered is not None and not self._is_databases(answered := _first_of(answered)):
            give_up(answered)  # what the server says next is the answer to this
            # What was interrupted between a statement and the entry of its answer is what the pipeline stumbles over.
            raise answered if failed is None or self._is_databases(failed) else failed
        if claim is None or not claim.is_done:
            self._lose()
        if (fault := failed or answered) is not None:
            raise fault


def _refuse(*_: Any) -> NoReturn:
    raise RetryTransactionError("the key was taken before this transaction had sent anything: it cannot go on")


def _first_of(error: BaseException) -> BaseException:
    """Return what an error of psycopg's was raised over: where a signal handler has raised, that it cannot go on."""
    handled = sys.exc_info()[1]
    while (behind := error.__context__) is not None and behind is not handled:
        error = behind
    return error


def require(connection: Connection) -> None:
    """Have a claim that still waits sent before a statement of the library's own, with which it would not travel."""
    deferred: Deferred | None = vars(connection.connection).get(_MARK)
    if deferred is not None:
        deferred.require()


def listen(engine: Engine) -> None:
    """Have an engine's statements take a claim along that waits for them; doing it twice is harmless."""
    listen_once(engine, "do_execute", _with_values)
    listen_once(engine, "do_execute_no_params", _without_values)
    listen_once(engine, "do_executemany", _many)


def _carried(cursor: Any, statement: str, context: Any, event: str, execute: Callable[[], Any]) -> bool | None:
    connection = context.root_connection
    deferred: Deferred | None = vars(connection.connection).get(_MARK)
    if deferred is None:
        return None
    if not deferred.waits:
        if deferred.is_lost:  # after a ROLLBACK sent as text the server would do it
            _refuse()
        return None
    dialect = context.dialect
    together = len(getattr(dialect.dispatch, event)) == 1 and is_plain(getattr(dialect, event))
    return deferred.carry(cursor, statement, execute, connection.invalidate, together=together) or None


def _with_values(cursor: Any, statement: str, parameters: Any, context: Any) -> bool | None:
    return _carried(cursor, statement, context, "do_execute", lambda: cursor.execute(statement, parameters))


def _without_values(cursor: Any, statement: str, context: Any) -> bool | None:
    return _carried(cursor, statement, context, "do_execute_no_params", lambda: cursor.execute(statement))


def _many(cursor: Any, statement: str, parameters: Any, context: Any) -> bool | None:
    return _carried(cursor, statement, context, "do_executemany", lambda: cursor.executemany(statement, parameters))
