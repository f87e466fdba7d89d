"""The claim that waits for the function's first statement and travels with it, for PostgreSQL through psycopg.

For functions that only touch the database, by their own request: they run before anybody knows whether the claim is theirs.
Where it is not, their first statement is never done: the claim fails, and the server does nothing after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import event

from .origin import root

if TYPE_CHECKING:
    from sqlalchemy import Engine

_MARK: Final = "_idemtable_deferred"


class Deferred:
    """A claim that was not sent yet.

    Args:
        driver: psycopg's connection, in no transaction.
        begin: how its transactions begin.
        sql: a statement that fails where the key is taken.
        values: of the statement.
        send: sends the claim by itself, and says whether it was won.
    """

    def __init__(
        self, driver: Any, begin: bytes, sql: str, values: Mapping[str, Any], send: Callable[[], bool]
    ) -> None:
        self._driver, self._begin, self._sql, self._values, self._send = driver, begin, sql, values, send
        self.is_lost = False
        setattr(driver, _MARK, self)

    def take(self) -> bool:
        """Send the claim, unless it has travelled; say whether it is the call's own."""
        if self.forget():
            self.is_lost = not self._send()
        return not self.is_lost

    def forget(self) -> bool:
        """Let it travel with nothing any more; say whether it had not yet."""
        return vars(self._driver).pop(_MARK, None) is not None

    def ride(self, execute: Callable[[], Any]) -> None:
        """Send it with a statement of the function's.

        Raises:
            psycopg.Error: what the server says of whichever has failed.
        """
        self.forget()
        driver = self._driver
        claim = driver.cursor()
        try:
            with driver.pipeline():
                # psycopg would begin by itself, and wait for the answer.
                driver._autocommit = True
                try:
                    driver.cursor().execute(self._begin)
                    claim.execute(self._sql, self._values)
                    execute()
                finally:
                    driver._autocommit = False
        except BaseException:
            self.is_lost = claim.statusmessage is None
            raise


def listen(engine: Engine) -> None:
    """Have an engine's statements take a claim along that waits for them; doing it twice is harmless."""
    engine = root(engine)
    if not event.contains(engine, "do_execute", _with_values):
        event.listen(engine, "do_execute", _with_values)
        event.listen(engine, "do_execute_no_params", _without_values)
        event.listen(engine, "do_executemany", _many)


def _of(cursor: Any) -> Deferred | None:
    return getattr(getattr(cursor, "connection", None), _MARK, None)


def _with_values(cursor: Any, statement: str, parameters: Any, context: Any) -> bool | None:
    if (deferred := _of(cursor)) is None:
        return None
    deferred.ride(lambda: cursor.execute(statement, parameters))
    return True  # it was executed here


def _without_values(cursor: Any, statement: str, context: Any) -> bool | None:
    if (deferred := _of(cursor)) is None:
        return None
    deferred.ride(lambda: cursor.execute(statement))
    return True


def _many(cursor: Any, statement: str, parameters: Any, context: Any) -> bool | None:
    if (deferred := _of(cursor)) is None:
        return None
    deferred.ride(lambda: cursor.executemany(statement, parameters))
    return True
