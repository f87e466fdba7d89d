"""How long MySQL waits for the lock of a row: a setting of the session, which is the application's.

There is no other way to bound one statement's wait. So the setting is changed before it and put back behind it, each a
statement of its own, unless the session waits as long anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Final

from .told import number
from .words import lent

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from .statement import Statement

# One statement to look and to set: each costs a round trip. The variable is the session's own, like the setting.
LEND: Final = "SET @idemtable_wait = @@SESSION.innodb_lock_wait_timeout, SESSION innodb_lock_wait_timeout = :wait"
GIVE_BACK: Final = "SET SESSION innodb_lock_wait_timeout = @idemtable_wait"

_LEAST: Final = 1
"""The least that MySQL takes: it makes that of 0 with a warning, which asyncmy logs, or in a strict mode refuses it."""
_TIMED_OUT: Final = 1205
_USUAL: Final = "idemtable_lock_wait"
"""Where a driver's connection keeps how long it waits; ``None`` before anybody has looked. To look is a round trip: a
connection that carries one call in its life does without, and another has it once. What the application sets later in the
middle of a connection's life is noticed when a wait was in vain."""


class LockWait:
    """The setting of the sessions of one engine.

    Args:
        statement: compiles a template.
    """

    def __init__(self, statement: Callable[[str], Statement]) -> None:
        self._look = statement("SELECT @@SESSION.innodb_lock_wait_timeout")
        self._lend = statement(LEND)
        self._give_back = statement(GIVE_BACK)

    def suits(self, connection: Connection, wait: int) -> bool:
        """Say whether a session is known to wait so many seconds by itself."""
        info = connection.connection.info
        if _USUAL not in info:
            info[_USUAL] = None
            return False
        if info[_USUAL] is None:
            info[_USUAL] = self._look(connection).scalar()
        return bool(info[_USUAL] == possible(wait))

    @contextmanager
    def bounded(self, connection: Connection, wait: int) -> Iterator[None]:
        """Let what runs inside wait so many seconds for each lock."""
        if not self.suits(connection, wait):
            with self.put_back(connection):
                self._lend(connection, {"wait": possible(wait)})
                yield
            return
        info = connection.connection.info
        try:
            yield
        except Exception as error:
            if timed_out(error):
                info[_USUAL] = None
            raise

    def put_back(self, connection: Connection) -> AbstractContextManager[None]:
        """Put the setting back behind what runs inside, however that ends."""
        return lent(connection, lambda: self._give_back(connection))


def timed_out(error: BaseException) -> bool:
    """Say whether an error is that of a lock that was waited for in vain."""
    return bool(number(getattr(error, "orig", None) or error) == _TIMED_OUT)


def possible(wait: int) -> int:
    """Return the seconds that MySQL can be told to wait."""
    return max(wait, _LEAST)
